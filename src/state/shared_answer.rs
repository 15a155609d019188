//! An answer that serves all runs of this front-end that want it at the same time.

use super::{BootId, file_name, give_to_owner_of_folder, note, private_folder, read_up_to};
use rustix::fs::{FlockOperation, OFlags};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Among the state.
const FOLDER: &str = "answers";
/// Who holds the turn longer than that is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a turn is tried for.
const PAUSE: Duration = Duration::from_millis(3);
/// Longer answers are not shared, in bytes.
const LONGEST: u64 = 16 << 20;

/// Where the answers to one question are shared. Who asks while another one is asking waits for the next answer, which is then
/// for all who wait. An answer serves only who wanted it before the question was put: so it is as new as one of his own.
/// Without the folder, and with whatever goes wrong, each asks for himself.
pub(crate) struct SharedAnswer {
    folder: PathBuf,
    name: String,
    /// What is asked, of whom, and by which user: the same question by another one may have another answer.
    question: String,
}

#[derive(Serialize, Deserialize)]
struct Shared<T> {
    question: String,
    boot_id: BootId,
    /// When the question was put, by the clock of this run of the machine, in nanoseconds.
    put: u64,
    answer: T,
}

impl SharedAnswer {
    /// `state`: this front-end's own folder. `whom`: who is asked, by his address.
    pub(crate) fn new(state: &Path, whom: &str, question: String) -> Self {
        Self { folder: state.join(FOLDER), name: file_name(whom), question }
    }

    /// The answer to a question that is put no sooner than now.
    pub(crate) async fn asked_now<T: Serialize + DeserializeOwned, E>(
        &self,
        ask: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(wanted) = now() else { return ask.await };
        let Some(_turn) = self.turn().await else { return ask.await };
        let (Ok(boot_id), Some(put)) = (BootId::current(), now()) else { return ask.await };
        if let Some(shared) = self.last::<T>()
            && shared.question == self.question
            && shared.boot_id == boot_id
            && shared.put >= wanted
        {
            return Ok(shared.answer);
        }
        let shared = Shared { question: self.question.clone(), boot_id, put, answer: ask.await? };
        if let Err(error) = note(&self.folder, &self.name, &shared) {
            tracing::debug!("{}: cannot share an answer: {error}", self.folder.display());
        }
        Ok(shared.answer)
    }

    /// `None`: it cannot be had, or takes too long. It ends with the file, also where its process is killed.
    async fn turn(&self) -> Option<File> {
        let locked = self.open().inspect_err(|error| tracing::debug!("{}: {error}", self.folder.display()));
        let locked = locked.ok()?;
        let waited = tokio::time::timeout(PATIENCE, async {
            while let Err(error) = rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
                if error != rustix::io::Errno::WOULDBLOCK {
                    return None;
                }
                tokio::time::sleep(PAUSE).await;
            }
            Some(())
        });
        waited.await.ok().flatten().map(|()| locked)
    }

    fn open(&self) -> std::io::Result<File> {
        if let Some(state) = self.folder.parent() {
            private_folder(state)?;
        }
        private_folder(&self.folder)?;
        let path = self.folder.join(format!("{}.turn", self.name));
        let flags = OFlags::NOFOLLOW.bits() as i32;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)?;
        give_to_owner_of_folder(&file, &path);
        Ok(file)
    }

    fn last<T: DeserializeOwned>(&self) -> Option<Shared<T>> {
        let text = read_up_to(&self.folder.join(&self.name), LONGEST).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// `None` is no time: an old answer would be as new as any.
fn now() -> Option<u64> {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).ok()?;
    u64::try_from(now.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::sync::Semaphore;

    fn shared(folder: &Path, question: &str) -> SharedAnswer {
        SharedAnswer::new(folder, "images", question.to_owned())
    }

    #[tokio::test]
    async fn who_asks_while_another_asks_has_the_next_answer() {
        let folder = tempfile::tempdir().unwrap();
        let (asked, go_on) = (Cell::new(0), Semaphore::new(0));
        let ask = async || {
            let one = shared(folder.path(), "all images");
            one.asked_now(async {
                asked.set(asked.get() + 1);
                let number = asked.get();
                drop(go_on.acquire().await);
                Ok::<i32, ()>(number)
            })
            .await
            .unwrap()
        };
        let (first, [a, b, c], ()) =
            futures::join!(ask(), async { futures::join!(ask(), ask(), ask()).into() }, async {
                go_on.add_permits(9)
            });
        // who came while the first one asked cannot have that answer; one of them asks for all
        assert_eq!((first, a, b, c), (1, 2, 2, 2));
        // and whoever comes later asks again
        assert_eq!(ask().await, 3);
    }

    #[tokio::test]
    async fn nothing_old_nothing_of_others_and_nothing_broken_is_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let ask = async |question: &str, number: i32| {
            shared(folder.path(), question).asked_now(async { Ok::<i32, ()>(number) }).await.unwrap()
        };
        assert_eq!(ask("as oneadmin", 1).await, 1);
        let path = folder.path().join(FOLDER).join("images");
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(ask("as oneadmin", 2).await, 2);
        // as if it had been put later than now
        let later = |text: &str| {
            let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["put"] = serde_json::json!(u64::MAX);
            value.to_string()
        };
        std::fs::write(&path, later(&written)).unwrap();
        assert_eq!(ask("as oneadmin", 3).await, 1, "the test itself");
        assert_eq!(ask("as a user who sees less", 4).await, 4);
        let boot_id = BootId::current().unwrap().to_string();
        let of_another_boot = later(&written).replace(&boot_id, "00000000-0000-4000-8000-000000000000");
        for broken in [of_another_boot.as_str(), "", "{", &written[..written.len() / 2]] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(ask("as oneadmin", 5).await, 5, "{broken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_is_not_waited_for_and_an_error_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let hung = shared(folder.path(), "all images");
        let turn = hung.turn().await.unwrap();
        let one = shared(folder.path(), "all images");
        assert_eq!(one.asked_now(async { Ok::<i32, ()>(1) }).await, Ok(1));
        drop(turn);
        assert_eq!(one.asked_now(async { Err::<i32, &str>("no") }).await, Err("no"));
        assert_eq!(one.asked_now(async { Ok::<i32, &str>(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn without_a_folder_each_asks_for_himself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("no-folder");
        std::fs::write(&file, "").unwrap();
        assert_eq!(shared(&file, "all images").asked_now(async { Ok::<i32, ()>(1) }).await, Ok(1));
    }
}

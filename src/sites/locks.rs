//! One lock per copy, in the copy's own cluster.
//!
//! It keeps two gates, a gate and a release, or two operators from changing an image's role at the same time. It
//! expires by itself. Its cookie names the process that took it, so that the next one on the same machine can
//! break the lock of a process that was killed instead of waiting for it to expire.

use super::cluster::Cluster;
use super::outside::TimeSource;
use crate::ceph::{CephError, Expiry, LockHolder, Locking};
use crate::state::{BootId, RunsSign, SignOfLife};
use onemirror_protocol::ImageSpec;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// The lock's name on the image's object.
const LOCK_NAME: &str = "onemirror";
/// Two more on the same object, which nobody waits for and which do not expire: notes about a resync. This one says
/// that a request is on its way, to the copy that is there now or to the next one.
const RESYNC_ASKING: &str = "onemirror.resync-asking";
/// And this one that it was made: its cookie is the id of the copy that it has met.
const RESYNC_ASKED: &str = "onemirror.resync-asked";
const ASKING: &str = "asking";

/// The RADOS object that carries the locks of an image; global ids are the same on both sites.
fn object(global_id: &str) -> String {
    format!("onemirror.{global_id}")
}

/// Who takes locks: this process, recognisable by others of its front-end after it is gone.
#[derive(Clone)]
pub(crate) struct Owner {
    cookie: String,
    folder: PathBuf,
    time: Rc<dyn TimeSource>,
    _sign_of_life: Option<Rc<SignOfLife>>,
}

/// What the cookies of processes of this machine hold: the kernel's boot and the process namespace.
fn machine() -> String {
    let boot = BootId::current().map(|boot| boot.to_string()).unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().chars().filter(char::is_ascii_digit).collect::<String>())
        .unwrap_or_default();
    format!("{boot}/{namespace}")
}

/// When a process started, in clock ticks since boot; tells it from a later one with the same id.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command's name, in parentheses, may hold anything; field 22 of all is the 20th after it
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

impl Owner {
    /// `state` is the front-end's own folder, and `signs` the sign that this run gives.
    pub(crate) fn this_process(site: &str, state: &Path, time: Rc<dyn TimeSource>, signs: &RunsSign) -> Self {
        let pid = std::process::id();
        let start = start_time(pid).unwrap_or_default();
        let folder = state.join("running");
        // without one, others wait until the lock expires
        let sign_of_life = signs.given(|| {
            SignOfLife::give(&folder, &format!("{:016x}", time.random()))
                .inspect_err(|error| tracing::warn!("{}: {error}", folder.display()))
                .ok()
        });
        let name = sign_of_life.as_ref().map_or("unsigned".into(), |sign| sign.name().to_string_lossy());
        // another owner in this process is another one
        let cookie = format!("{site}/{}/{pid}/{start}/{name}-{:016x}", machine(), time.random());
        Self { cookie, folder, time, _sign_of_life: sign_of_life }
    }

    /// Whether a lock's owner was a process of this front-end that no longer lives, nor anything that it started.
    fn sees_orphan(&self, cookie: &str) -> bool {
        let mut own = self.cookie.splitn(2, '/');
        let Some(site) = own.next() else { return false };
        let Some(rest) = cookie.strip_prefix(&format!("{site}/{}/", machine())) else { return false };
        let parts: Vec<&str> = rest.split('/').collect();
        let [pid, start, name] = parts[..] else { return false };
        let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { return false };
        let name = name.split('-').next().unwrap_or_default();
        let signed = name.len() == 16 && name.chars().all(|c| c.is_ascii_hexdigit());
        signed && start_time(pid) != Some(start) && SignOfLife::is_gone(&self.folder, name)
    }
}

/// A held lock.
pub(crate) struct Lock {
    cluster: Cluster,
    image: ImageSpec,
    global_id: String,
    owner: Owner,
    until: Instant,
}

/// Why a lock was not had.
pub(crate) enum LockError {
    /// Somebody else has it.
    Held(String),
    /// The cluster could not be asked.
    Ceph(CephError),
}

impl From<CephError> for LockError {
    fn from(error: CephError) -> Self {
        Self::Ceph(error)
    }
}

impl Lock {
    /// Takes the lock for `duration`, or says who has it. Never waits.
    pub(crate) async fn take(
        cluster: &Cluster,
        image: &ImageSpec,
        global_id: &str,
        owner: &Owner,
        duration: Duration,
    ) -> Result<Self, LockError> {
        let object = object(global_id);
        for _ in 0..2 {
            let asked = owner.time.now();
            match cluster.lock(image, &object, LOCK_NAME, &owner.cookie, Expiry::After(duration)).await? {
                Locking::Acquired => {
                    return Ok(Self {
                        cluster: cluster.clone(),
                        image: image.clone(),
                        global_id: global_id.to_owned(),
                        owner: owner.clone(),
                        until: asked + duration,
                    });
                }
                Locking::Held => match cluster.lock_holder(image, &object, LOCK_NAME).await? {
                    Some(holder) if owner.sees_orphan(&holder.cookie) => {
                        tracing::info!("{image}: breaking the lock of a process that was killed");
                        cluster.unlock(image, &object, LOCK_NAME, &holder).await?;
                    }
                    Some(holder) => return Err(LockError::Held(holder_name(&holder))),
                    None => {}
                },
            }
        }
        Err(LockError::Held("somebody who was faster".into()))
    }

    /// Whether it is a lock of this image; one that is mirrored anew is another one.
    pub(crate) fn is_of(&self, global_id: &str) -> bool {
        self.global_id == global_id
    }

    /// Whether the lock is still ours, with at least `margin` to go. Asked before every change: a process that was
    /// paused may wake up when its lock is long gone.
    pub(crate) async fn is_ours(&self, margin: Duration) -> Result<bool, CephError> {
        if self.owner.time.now() + margin > self.until {
            return Ok(false);
        }
        let holder = self.cluster.lock_holder(&self.image, &object(&self.global_id), LOCK_NAME).await?;
        Ok(holder.is_some_and(|holder| holder.cookie == self.owner.cookie))
    }

    /// Gives the lock back. Failing to is harmless: it expires.
    pub(crate) async fn release(self) {
        let object = object(&self.global_id);
        let ended = match self.cluster.lock_holder(&self.image, &object, LOCK_NAME).await {
            Ok(Some(holder)) if holder.cookie == self.owner.cookie => {
                self.cluster.unlock(&self.image, &object, LOCK_NAME, &holder).await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!("{}: lock left to expire: {error}", self.image);
        }
    }
}

fn holder_name(holder: &LockHolder) -> String {
    let mut parts = holder.cookie.split('/');
    match (parts.next(), parts.nth(2)) {
        (Some(site), Some(pid)) => format!("process {pid} of {site}"),
        _ => holder.client.clone(),
    }
}

/// Asks for a resync and keeps note of it. The daemon does not forget a request, not even while the copy is primary
/// (seen on Ceph 16.2 and 18.2); so a copy that was asked about must not be taken, or given up, before it is another
/// one. Killed between any two of these calls, at least one note stands. `asked` looks for the copy of which Ceph keeps
/// the request: a daemon that is faster than this process has met it before, and the next copy is to be left alone.
pub(crate) async fn request_resync(
    cluster: &Cluster,
    image: &ImageSpec,
    global_id: &str,
    asked: impl AsyncFnOnce() -> Result<Option<String>, CephError>,
) -> Result<(), CephError> {
    let object = object(global_id);
    let first =
        cluster.lock(image, &object, RESYNC_ASKING, ASKING, Expiry::Never).await? == Locking::Acquired;
    if let Err(error) = cluster.resync(image).await {
        // refused for certain: nothing was asked for, unless by somebody before
        if first && matches!(error, CephError::NotPossible { .. } | CephError::NotFound { .. }) {
            forget_asking(cluster, image, &object).await?;
        }
        return Err(error);
    }
    let Some(id) = asked().await? else { return forget_asking(cluster, image, &object).await };
    if let Some(old) = cluster.lock_holder(image, &object, RESYNC_ASKED).await? {
        cluster.unlock(image, &object, RESYNC_ASKED, &old).await?;
    }
    match cluster.lock(image, &object, RESYNC_ASKED, &id, Expiry::Never).await? {
        Locking::Acquired => forget_asking(cluster, image, &object).await,
        Locking::Held => Ok(()),
    }
}

async fn forget_asking(cluster: &Cluster, image: &ImageSpec, object: &str) -> Result<(), CephError> {
    match cluster.lock_holder(image, object, RESYNC_ASKING).await? {
        Some(asking) => cluster.unlock(image, object, RESYNC_ASKING, &asking).await,
        None => Ok(()),
    }
}

/// Whether there is a note that a resync of the copy with this id was to be asked for, or was.
pub(crate) async fn resync_noted(
    cluster: &Cluster,
    image: &ImageSpec,
    global_id: &str,
    id: &str,
) -> Result<bool, CephError> {
    let object = object(global_id);
    // in the order in which the notes are written: who is gone from the first one stands in the second
    if cluster.locks_among(image, &object, &[RESYNC_ASKING, RESYNC_ASKED]).await?.is_empty() {
        return Ok(false);
    }
    if cluster.lock_holder(image, &object, RESYNC_ASKING).await?.is_some() {
        return Ok(true);
    }
    let asked = cluster.lock_holder(image, &object, RESYNC_ASKED).await?;
    Ok(asked.is_some_and(|asked| asked.cookie == id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::RbdCommand;
    use crate::sites::outside::RealTime;
    use crate::sites::silence::Silence;

    fn owner_of(site: &str, state: &Path) -> Owner {
        Owner::this_process(site, state, Rc::new(RealTime), &RunsSign::default())
    }

    #[test]
    fn only_the_dead_of_this_front_end_are_orphans() {
        let state = tempfile::tempdir().unwrap();
        let owner = owner_of("site-a", state.path());
        let alive = owner.cookie.clone();
        assert!(!owner.sees_orphan(&alive));
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        let dead = alive.replace(&format!("/{pid}/{start}/"), &format!("/{pid}/{}/", start + 1));
        assert_ne!(dead, alive);
        assert!(!owner.sees_orphan(&dead), "its file is still locked");
        let other = owner_of("site-a", state.path());
        drop(owner);
        assert!(other.sees_orphan(&dead));
        assert!(other.sees_orphan(&dead), "also when its file is gone");
        assert!(!owner_of("site-b", state.path()).sees_orphan(&dead));
        assert!(!other.sees_orphan(&dead.replace(&machine(), "another-boot/4026531836")));
        assert!(!other.sees_orphan("somebody else's lock"));
    }

    #[test]
    fn a_process_that_cannot_sign_is_waited_for() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("running"), "in the way").unwrap();
        let unsigned = owner_of("site-a", state.path()).cookie;
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        let dead = unsigned.replace(&format!("/{pid}/{start}/"), &format!("/{pid}/{}/", start + 1));
        let state = tempfile::tempdir().unwrap();
        assert!(!owner_of("site-a", state.path()).sees_orphan(&dead));
    }

    /// Locks as files `NAME` that hold the cookie; every request for a resync works.
    const RADOS: &str = r#"#!/bin/sh
cd "${0%/*}/locks" || exit 1
for word; do case $word in --lock-cookie=*) cookie=${word#*=} ;; esac; done
verb=$5
while [ "$1" != -- ]; do shift; done
case $verb in
  get) [ ! -e "$3" ] || { echo 'error 16: (16) Device or resource busy' >&2; exit 1; }; printf %s "$cookie" > "$3" ;;
  break) rm "$3" ;;
  list) printf '{"locks":['; for name in *; do [ ! -e "$name" ] || printf '%s{"name":"%s"}' "$comma" "$name"; comma=,; done; printf ']}' ;;
  info) printf '{"lockers":['; [ ! -e "$3" ] || printf '{"name":"client.1","cookie":"%s"}' "$(cat "$3")"; printf ']}' ;;
esac
"#;

    #[tokio::test]
    async fn a_note_stands_for_the_copy_that_ceph_is_to_throw_away_and_for_no_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("locks")).unwrap();
        let program = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let programs = crate::ceph::Programs {
            rados: program("rados", RADOS),
            rbd: program("rbd", "#!/bin/sh\nexit 0\n"),
            ceph: "false".into(),
            ssh: "false".into(),
        };
        let cluster = RbdCommand::new(crate::ceph::Connection {
            site: "site-a".into(),
            conf: Some("/dev/null".into()),
            user: Some("libvirt".into()),
            keyfile: None,
            mon_host: None,
            run_on: crate::ceph::RunOn::Local,
            deadline: Duration::from_secs(20),
            librbd: crate::ceph::LibraryUse::Never,
        })
        .with_programs(programs);
        let cluster = Cluster::new(Rc::new(cluster), Silence::none(Rc::new(RealTime)));
        let image: ImageSpec = "one/x".parse().unwrap();
        let noted = async |id| resync_noted(&cluster, &image, "g", id).await.unwrap();

        // the daemon has yet to act
        request_resync(&cluster, &image, "g", async || Ok(Some("old".into()))).await.unwrap();
        assert!(noted("old").await && !noted("new").await);
        // it was faster, or the copy is gone for the moment: the next copy is as good as any
        request_resync(&cluster, &image, "g", async || Ok(None)).await.unwrap();
        assert!(!noted("new").await);
        // whoever is killed before he knows leaves a note about whatever copy there is
        let silent = || CephError::BadAnswer { what: String::new(), detail: String::new() };
        request_resync(&cluster, &image, "g", async || Err(silent())).await.unwrap_err();
        assert!(noted("new").await);
        request_resync(&cluster, &image, "g", async || Ok(Some("new".into()))).await.unwrap();
        assert!(noted("new").await && !noted("newer").await);
    }
}

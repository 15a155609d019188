//! One lock per copy, in the copy's own cluster.
//!
//! It keeps two gates, a gate and a release, or two operators from changing an image's role at the same time. It
//! expires by itself. Its cookie names the process that took it, so that the next one on the same machine can
//! break the lock of a process that was killed instead of waiting for it to expire.

use crate::ceph::{Ceph, CephError, Expiry, LockHolder, Locking, RbdCommand};
use crate::image_spec::ImageSpec;
use crate::state::BootId;
use std::rc::Rc;
use std::time::{Duration, Instant};

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

/// Who takes locks: this process, recognisable by others on the same machine after it is gone.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    cookie: String,
}

/// What the cookies of processes of this machine begin with: the kernel's boot and the process namespace.
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
    pub(super) fn this_process(site: &str) -> Self {
        let pid = std::process::id();
        let start = start_time(pid).unwrap_or_default();
        let random: u32 = rand::random();
        Self { cookie: format!("{site}/{}/{pid}/{start}/{random:08x}", machine()) }
    }
}

/// Whether a lock's owner was a process of this machine that no longer lives.
fn is_orphan(cookie: &str) -> bool {
    let Some((_, rest)) = cookie.split_once('/') else { return false };
    let Some(rest) = rest.strip_prefix(&machine()).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let mut parts = rest.split('/');
    let (Some(Ok(pid)), Some(Ok(start))) =
        (parts.next().map(str::parse::<u32>), parts.next().map(str::parse::<u64>))
    else {
        return false;
    };
    start_time(pid) != Some(start)
}

/// A held lock.
pub(super) struct Lock {
    cluster: Rc<RbdCommand>,
    image: ImageSpec,
    global_id: String,
    owner: Owner,
    until: Instant,
}

/// Why a lock was not had.
pub(super) enum LockError {
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
    pub(super) async fn take(
        cluster: &Rc<RbdCommand>,
        image: &ImageSpec,
        global_id: &str,
        owner: &Owner,
        duration: Duration,
    ) -> Result<Self, LockError> {
        let object = object(global_id);
        for _ in 0..2 {
            let asked = Instant::now();
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
                    Some(holder) if is_orphan(&holder.cookie) => {
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

    /// Whether the lock is still ours, with at least `margin` to go. Asked before every change: a process that was
    /// paused may wake up when its lock is long gone.
    pub(super) async fn is_ours(&self, margin: Duration) -> Result<bool, CephError> {
        if Instant::now() + margin > self.until {
            return Ok(false);
        }
        let holder = self.cluster.lock_holder(&self.image, &object(&self.global_id), LOCK_NAME).await?;
        Ok(holder.is_some_and(|holder| holder.cookie == self.owner.cookie))
    }

    /// Gives the lock back. Failing to is harmless: it expires.
    pub(super) async fn release(self) {
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
/// one. Killed between any two of these calls, at least one note stands.
pub(super) async fn request_resync(
    cluster: &RbdCommand,
    image: &ImageSpec,
    global_id: &str,
) -> Result<(), CephError> {
    let object = object(global_id);
    cluster.lock(image, &object, RESYNC_ASKING, ASKING, Expiry::Never).await?;
    cluster.resync(image).await?;
    // a copy that is gone by now was met; one that came since may have been
    let Some(met) = cluster.info(image).await? else { return Ok(()) };
    if let Some(old) = cluster.lock_holder(image, &object, RESYNC_ASKED).await? {
        cluster.unlock(image, &object, RESYNC_ASKED, &old).await?;
    }
    if cluster.lock(image, &object, RESYNC_ASKED, &met.id, Expiry::Never).await? == Locking::Acquired
        && let Some(asking) = cluster.lock_holder(image, &object, RESYNC_ASKING).await?
    {
        cluster.unlock(image, &object, RESYNC_ASKING, &asking).await?;
    }
    Ok(())
}

/// Whether a resync was asked for of the copy with this id and has not happened.
pub(super) async fn resync_requested(
    cluster: &RbdCommand,
    image: &ImageSpec,
    global_id: &str,
    id: &str,
) -> Result<bool, CephError> {
    let object = object(global_id);
    let (asking, asked) = futures::try_join!(
        cluster.lock_holder(image, &object, RESYNC_ASKING),
        cluster.lock_holder(image, &object, RESYNC_ASKED),
    )?;
    Ok(asking.is_some() || asked.is_some_and(|asked| asked.cookie == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_of_this_machine_are_orphans() {
        let alive = Owner::this_process("site-a").cookie;
        assert!(!is_orphan(&alive));
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        let same_number_later = alive.replace(&format!("/{pid}/{start}/"), &format!("/{pid}/{}/", start + 1));
        assert_ne!(same_number_later, alive);
        assert!(is_orphan(&same_number_later));
        let nobody = alive.replace(&format!("/{pid}/{start}/"), "/42949672960/1/");
        assert!(!is_orphan(&nobody), "an id that cannot be read proves nothing");
        let elsewhere = same_number_later.replace(&machine(), "another-boot/4026531836");
        assert!(!is_orphan(&elsewhere));
        assert!(!is_orphan("somebody else's lock"));
    }
}

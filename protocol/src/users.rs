//! Which VMs of a site count as users of an image.

use crate::sight::{UsesHere, WayOut};

/// What the state of a VM says of its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// It does not use them.
    Inactive,
    /// It is on its way out.
    LettingGo,
    /// It may be using them, and no boot of it is under way: something is done to it, or failed. Also every state that is
    /// not known.
    Busy,
    /// OpenNebula starts it by itself, at any moment: PENDING, `recover --recreate`.
    ToBeStarted,
    /// It boots or runs, or its saved memory belongs to the disks as they are.
    Holding,
}

impl Activity {
    /// Whether the VM may be using its disks, or its memory belongs to them.
    pub fn may_use(self) -> bool {
        self != Self::Inactive
    }

    /// Whether the VM boots, runs, is about to be started again, or has saved memory: so no driver that gives its disks up is
    /// at work for it, unless one that its front-end has forgotten.
    pub fn keeps_disks(self) -> bool {
        matches!(self, Self::ToBeStarted | Self::Holding)
    }
}

/// Whether the VM that let go of the images is still there. Who uses them is asked under the lock at every look: a
/// VM is ACTIVE before its gate asks for the lock, so one that is seen inactive cannot have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LetGo {
    /// It is at its end, and oned waits for the answer; unless oned was restarted and has forgotten that it asked. So it
    /// is no user as long as it neither boots, nor runs, nor has saved memory.
    ByEndingVm,
    /// It is at rest, or gone; whoever uses the images took them since.
    Earlier,
}

/// Which VMs of this site count as users of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Users {
    /// Those that are not inactive, but for the run's own VM.
    Others,
    /// Those that let go of the images, or may not have.
    Since(LetGo),
    /// All that are not inactive.
    All,
    /// All, with what they do: [`crate::UsesHere`].
    Uses,
}

/// A VM that has the image among its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageUser {
    /// Its id.
    pub vm: i32,
    /// What its state says.
    pub activity: Activity,
}

/// A VM of this site that has the image, as far as upkeep cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserHere {
    /// Its id.
    pub vm: i32,
    /// It may be using the image, or its saved memory belongs to it.
    pub in_use: bool,
    /// It runs (RUNNING, not only booting).
    pub running: bool,
    /// How it is brought to let its disks go.
    pub way_out: WayOut,
}

impl UsesHere {
    /// What all of them together do with an image.
    pub fn of(users: &[UserHere], ended: Option<i32>) -> Self {
        Self {
            by_any: !users.is_empty(),
            in_use: users.iter().any(|user| user.in_use),
            running: users.iter().find(|user| user.running).map(|user| user.vm),
            ended,
        }
    }
}

impl Users {
    /// The first of them that counts. `own` is the VM that the run is about.
    pub fn first(self, own: Option<i32>, users: impl IntoIterator<Item = ImageUser>) -> Option<i32> {
        let counts = |user: &ImageUser| {
            let is_own = own == Some(user.vm);
            match self {
                Self::Others => !is_own && user.activity.may_use(),
                Self::Since(LetGo::ByEndingVm) if is_own => user.activity.keeps_disks(),
                Self::Since(_) | Self::All | Self::Uses => user.activity.may_use(),
            }
        };
        users.into_iter().find(counts).map(|user| user.vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_counts_but_the_own_one_where_it_boots_or_is_at_its_end() {
        use Activity::{Busy, Holding, Inactive, LettingGo, ToBeStarted};
        let all = [Users::Others, Users::Since(LetGo::ByEndingVm), Users::Since(LetGo::Earlier), Users::All];
        for activity in [Inactive, LettingGo, Busy, ToBeStarted, Holding] {
            let is_used = activity != Inactive;
            for users in all {
                let other = ImageUser { vm: 8, activity };
                // an own VM at rest hides nobody
                let found = users.first(Some(7), [ImageUser { vm: 7, activity: Inactive }, other]);
                assert_eq!(found, is_used.then_some(8), "{users:?} {activity:?}");
                let counts = match users {
                    Users::Others => false,
                    Users::Since(LetGo::ByEndingVm) => matches!(activity, ToBeStarted | Holding),
                    _ => is_used,
                };
                let found = users.first(Some(7), [ImageUser { vm: 7, activity }]);
                assert_eq!(found, counts.then_some(7), "{users:?} {activity:?}");
            }
        }
    }
}

//! The protocol: how the primary image follows the running VM.
//!
//! Pure functions from what was observed to what is to be done, without I/O, clock or randomness, so that a model
//! checker can explore them. [`Gate`] decides before a boot, [`Release`] after a VM let go of its disks,
//! [`Upkeep`] when a site, a host or the timer comes round, [`Running`] about a VM that runs, [`Force`] what an
//! operator's `--force` may do. Behaviour lives here and nowhere else: who uses this crate only looks, asks and carries
//! out.
//!
//! What makes it safe, in one paragraph: image metadata replicates in order with the image's writes, so a copy that
//! shows the *closed* token of the other site has all of its writes; a copy that shows its *open* token follows
//! it. An image is demoted only when the other copy follows, and promoted only when both copies, non-primary,
//! carry the same closed token, or when the copy is provably the last writer's. Who changes the role of an image
//! holds the lock of the copies concerned from its look to its last step.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod advice;
mod decision;
mod home;
mod image;
mod metadata;
mod room;
mod rules;
mod run;
mod sight;
#[cfg(test)]
mod tests;
mod token;
mod users;
mod whole_copy;
mod words;

pub use decision::{Code, Decision, Finding, Judgement, Refusal, Rule, Side, Step, WaitFor};
pub use home::{Belongs, HOME_KEY, Home, Named, Residence, SiteRole, home_written};
pub use image::{ImageSpec, InvalidImageSpec};
pub use metadata::{Marks, Written, forced_mark, written_for};
pub use room::{Fullness, PoolLoad, QuotaOf};
pub use rules::boot::{BootKind, Gate, PeerUnreachable, room_advice};
pub use rules::force::{Force, Forced, HowForced, PassOver};
pub use rules::give_up::{Pending, Release, ReleaseJudgement, kept_at_recreate};
pub use rules::removal::{Kept, Removal};
pub use rules::running::Running;
pub use rules::take_up::{hinders_rehome, is_primary_nowhere, take_up_advice};
pub use rules::tidy::{Task, Undecided, Upkeep, UpkeepJudgement, released_by};
pub use run::{Carried, Depth, Event, Lateness, Request, Run, Setting, Standing, Time, Trouble, Verdict};
pub use sight::{
    Apart, Copy, Denial, DenialCause, Domain, Here, Keeping, Mode, Observation, PeerVm, Positions, Report,
    Resync, Role, SetAside, There, TokenSeen, UsesHere, WayOut, tell_sets_apart, without_saved_memory,
};
pub use token::{
    BOOTED_KEY, FORCED_KEY, Mark, RELEASE_KEY, SITE_IS_OFF, Seal, TOKEN_KEY, Token, Unreadable,
    forced_with_site_off,
};
pub use users::{Activity, ImageUser, LetGo, UserHere, Users};
pub use whole_copy::WholeCopy;
pub use words::Unfit;

/// How much longer a caller can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Patience {
    /// It has just begun: what is on its way may still arrive by itself.
    Fresh,
    /// Long enough for anything that moves to have arrived.
    Waning,
    /// The deadline is over: refuse, or leave it pending.
    Exhausted,
}

/// The locks of an image's copies that were held while it was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Locks {
    /// That of the copy here.
    Here,
    /// Those of both copies.
    Both,
}

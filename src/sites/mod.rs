//! Looks at both sites, asks [`onemirror_protocol`] what to do, and does it. It decides nothing by itself.

pub mod activity;
mod clock;
mod cluster;
pub mod drive;
mod error;
pub mod examine;
pub mod failover;
mod front_end;
pub mod gate;
pub mod images;
mod journal;
mod locks;
pub mod lost;
pub mod observe;
mod outside;
pub mod overview;
pub mod pass_on;
pub mod pools;
pub mod protection;
pub mod reconcile;
pub mod rehome;
pub mod release;
pub mod removal;
mod site;
mod start;
pub mod steps;
#[cfg(test)]
mod tests;

pub use activity::{activity, boot_kind, is_running, runs_again};
pub use cluster::Cluster;
pub use error::{FrontEndError, RunError, first_sentence, is_own_refusal};
pub use examine::{front_end, servers};
pub use failover::{FailoverOutcome, ForceOrder};
pub use front_end::FrontEnd;
pub use gate::{GateOutcome, GateScope};
pub use images::{VmImage, VmImages};
pub use lost::LostImage;
pub use outside::{Audit, Surroundings, TimeSource, Ways};
pub use overview::{CopyView, DiskView, Overview, PendingView, Plan, PlanPart, VmView};
pub use pass_on::PassOn;
pub use pools::NotReached;
pub use reconcile::{ReconcileItem, ReconcileReport};
pub use rehome::NewHome;
pub use release::ReleaseOutcome;
pub use site::{Sites, local_client};
pub use start::{ByHand, Start, start_of};

/// How many images are looked at side by side: each is a process or two, on front-ends with few cores.
const CONCURRENCY: usize = 4;

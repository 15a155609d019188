//! What onemirror does at the two sites, one operation a file. Each asks [`crate::sites`] for looks and steps.

pub mod boot;
pub mod failover;
pub mod give_up;
pub mod lost;
pub mod overview;
pub mod pass_on;
pub mod protection;
pub mod reconcile;
pub mod rehome;
pub mod removal;
#[cfg(test)]
mod tests;
mod undone;

pub use boot::{GateOutcome, GateScope};
pub use failover::FailoverOutcome;
pub use give_up::ReleaseOutcome;
pub use lost::LostImage;
pub use overview::{CopyView, DiskView, Overview, PendingView, Plan, PlanPart, VmView};
pub use pass_on::PassOn;
pub use reconcile::{ReconcileItem, ReconcileReport};
pub use rehome::NewHome;

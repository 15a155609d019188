//! What OpenNebula calls: transfer manager actions and hooks.
//!
//! A TM action is synchronous: [`tm`] may refuse a boot, gives images up, and then becomes the stock action. A hook
//! comes after the fact and returns within seconds: [`hook`] puts right what can be put right at once and leaves the
//! rest to the peer's gate or to reconcile.

pub mod actions;
mod answer;
pub mod arguments;
pub mod datastore;
mod guards;
pub mod hook;
pub mod tm;

//! What the driver's actions, `tm` and `datastore`, have in common: how they are called, and how they answer oned.
//!
//! An action is synchronous. It is refused, answered in its place, or passed on to the stock action, which then takes this
//! process over.

pub(crate) mod answer;
pub mod arguments;
pub(crate) mod guards;

use std::ffi::OsString;
use std::path::PathBuf;

/// How a wrapper in `remotes/` calls.
#[derive(Debug, clap::Args)]
pub(crate) struct DriverCall {
    /// The action that onemirror stands in front of
    #[arg(long)]
    pub(crate) stock: PathBuf,
    /// Its name, such as ln, mvds.ssh or rm
    pub(crate) action: String,
    /// The action's own arguments, passed on untouched
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

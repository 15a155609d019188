//! Puts onemirror into a front-end, keeps it there, and takes it out again.
//!
//! [`gather`] looks, [`plan`] decides and does nothing, [`execute`] carries out one step. Run again it finds nothing to
//! do; interrupted, it goes on where it was.

pub mod artifacts;
pub mod configuration;
pub mod execute;
pub mod gather;
pub mod layout;
pub mod plan;

use std::path::PathBuf;

/// Why something could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// OpenNebula is not here.
    #[error("there is no {}: is this a front-end of OpenNebula? Install it first, or set ONE_LOCATION", remotes.display())]
    NoFrontEnd {
        /// Its folder of drivers.
        remotes: PathBuf,
    },
    /// Only root may.
    #[error("run it as root: it writes below /usr and /etc")]
    NotRoot,
    /// Nothing tells what this site is.
    #[error(
        "say what this site is: --role home where the VMs belong, --role recovery where they run after a failover"
    )]
    NoRole,
    /// A repair of what is not there.
    #[error("there is no {}, so onemirror was not set up here; set it up with --role home or --role recovery", path.display())]
    NotSetUp {
        /// The configuration.
        path: PathBuf,
    },
    /// A folder where a file should be.
    #[error("{} is a folder; move it away, then run this again", path.display())]
    Unexpected {
        /// Where.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what}: {source}; once that is mended, run this again")]
    Io {
        /// What was to be done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A program of the system failed.
    #[error("{program} failed: {detail}; once that is mended, run this again")]
    Program {
        /// Its name.
        program: String,
        /// Its own words.
        detail: String,
    },
    /// oned refused.
    #[error("cannot {what}: {detail}; once that is mended, run this again")]
    FrontEnd {
        /// What was to be done.
        what: String,
        /// oned's words.
        detail: String,
    },
    /// The sample configuration could not be filled in.
    #[error("cannot write a configuration: {0}")]
    Configuration(String),
}

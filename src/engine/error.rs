//! Why the engine could not find out, or could not finish.

use crate::ceph::CephError;
use crate::config::ConfigError;
use crate::handoff::Refusal;
use crate::image_spec::ImageSpec;
use crate::opennebula::{DiskError, EndpointError, OneError};

/// Why a front-end could not be asked, or what it answered instead.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] OneError),
    /// What it shows to our user may not be all.
    #[error(
        "its user {0} is not in the group oneadmin and may not see every VM; put one into [peer] auth that is"
    )]
    SeesTooLittle(String),
    /// There is no way to call it: no credentials, or none that can be trusted.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// Why an operation ended without success. Nothing is half-done in a way that repeating it would not mend.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The rules say no.
    #[error("{0}")]
    Refused(Refusal),
    /// Refused before any image was looked at.
    #[error("{0}")]
    Unfit(String),
    /// A front-end could not be asked, or said no.
    #[error("OpenNebula on {site}: {error}")]
    OpenNebula {
        /// Whose front-end.
        site: String,
        /// What it said.
        #[source]
        error: FrontEndError,
    },
    /// A disk of the VM is not understood.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// A cluster could not be asked, or said no.
    #[error("{image}: Ceph on {site}: {error}")]
    Ceph {
        /// Which image.
        image: ImageSpec,
        /// Whose cluster.
        site: String,
        /// What happened.
        #[source]
        error: CephError,
    },
    /// Somebody else works on the image.
    #[error("{} is locked by another onemirror ({holder}); try again in a minute", image.image())]
    Locked {
        /// Which image.
        image: ImageSpec,
        /// By whom, as far as the lock tells.
        holder: String,
    },
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

impl EngineError {
    /// Whether everything is as it was: refused, not failed half-way.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unfit(_) | Self::Locked { .. } | Self::Disk(_))
    }
}

/// A text as one plain sentence for oned: a single line that does not begin with a dash.
pub fn first_sentence(text: &str) -> String {
    let line: String = text.chars().map(|c| if crate::text::is_obeyed(c) { ' ' } else { c }).collect();
    line.trim_start_matches([' ', '-']).trim_end().to_owned()
}

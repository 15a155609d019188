//! Why a run could not find out, or could not finish.

use crate::ceph::CephError;
use crate::config::ConfigError;
use crate::opennebula::{DiskError, EndpointError, OneError};
use onemirror_protocol::{Code, Denial, DenialCause, ImageSpec, Refusal, Rule, Unfit};

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
    /// The endpoint leads to this site.
    #[error(
        "[peer] endpoint in onemirror.conf leads to this site's own front-end; put in that of the other site"
    )]
    LeadsHere,
    /// It did not answer a moment ago, so it was not asked.
    #[error("{0}")]
    Silent(String),
    /// There is no way to call it: no credentials, or none that can be trusted.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl FrontEndError {
    /// What it means of a peer that it tells nothing; `None`: it is silent.
    pub(crate) fn denial(&self) -> Option<Denial> {
        let cause = match self {
            Self::Silent(_) => return None,
            Self::Call(error) if error.is_unreachable() => return None,
            Self::Call(error) if error.is_without_leader() => DenialCause::NoLeader,
            Self::Call(
                OneError::Authentication(_) | OneError::Authorization(_) | OneError::Http(401 | 403 | 407),
            )
            | Self::SeesTooLittle(_) => DenialCause::Access,
            Self::Call(OneError::Untrusted { .. }) => DenialCause::Certificate,
            Self::Call(OneError::Configuration(_)) | Self::Endpoint(_) | Self::LeadsHere => {
                DenialCause::NoWay
            }
            Self::Call(_) => DenialCause::Unintelligible,
        };
        Some(Denial { cause, detail: self.to_string() })
    }
}

/// What it means of the peer's cluster that it tells nothing; `None`: it is silent.
pub(crate) fn denial_of(error: &CephError) -> Option<Denial> {
    let cause = match error {
        CephError::Unreachable { .. } => return None,
        CephError::PermissionDenied { .. } => DenialCause::Access,
        CephError::NoWay { .. } => DenialCause::NoWay,
        CephError::NotFound { .. }
        | CephError::NotPossible { .. }
        | CephError::ReadOnly { .. }
        | CephError::Busy { .. }
        | CephError::PoolFull { .. }
        | CephError::BadAnswer { .. }
        | CephError::Failed { .. } => DenialCause::Unintelligible,
    };
    Some(Denial { cause, detail: error.to_string() })
}

/// How far a forced failover of several images came.
#[derive(Debug)]
pub struct ForcedInPart {
    /// What failed.
    pub failed: ImageSpec,
    /// Why.
    pub why: String,
    /// Forced before.
    pub forced: Vec<ImageSpec>,
    /// Not tried any more.
    pub left: Vec<ImageSpec>,
}

impl std::fmt::Display for ForcedInPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |images: &[ImageSpec]| match images {
            [] => "none".to_owned(),
            images => images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let (failed, why) = (&self.failed, &self.why);
        write!(
            f,
            "{} could not be forced, so the VM was not started; forced: {}; failed: {failed} ({why}); not tried: {}; put that right and repeat the command",
            failed.image(),
            list(&self.forced),
            list(&self.left)
        )
    }
}

/// Why an operation ended without success. Nothing is half-done in a way that repeating it would not mend.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The rules say no.
    #[error("{0}")]
    Refused(Refusal),
    /// It cannot be done, whatever the rules say.
    #[error("{0}")]
    Unfit(Unfit),
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
    #[error("{}", of_ceph(image, site, error))]
    Ceph {
        /// Which image.
        image: ImageSpec,
        /// Whose cluster.
        site: String,
        /// What happened.
        #[source]
        error: CephError,
    },
    /// A forced failover that did not get through: a VM of such images would be a mix of ages.
    #[error("{0}")]
    ForcedInPart(ForcedInPart),
    /// Somebody else works on the image.
    #[error("{} is locked by another onemirror ({holder}); try again in a minute", image.image())]
    Locked {
        /// Which image.
        image: ImageSpec,
        /// By whom, as far as the lock tells.
        holder: String,
    },
    /// A copy came, or became another one, after the look for which the locks were taken. Nobody has locked it.
    #[error("{} has come, or was mirrored anew, while it was looked at; try again", image.image())]
    Changed {
        /// Which image.
        image: ImageSpec,
    },
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

fn of_ceph(image: &ImageSpec, site: &str, error: &CephError) -> String {
    match error {
        // oned cuts after about 60 characters
        CephError::PoolFull { .. } => format!("{}: {error}", image.image()),
        error => format!("{image}: Ceph on {site}: {error}"),
    }
}

/// What an error of a cluster is known by.
pub(crate) fn code_of_ceph(error: &CephError) -> Code {
    match error {
        CephError::PoolFull { .. } => Rule::NoRoomHere.code().unwrap_or(Code::NO_RULE),
        _ => Code::CEPH,
    }
}

impl RunError {
    /// What it is known by in OpenNebula and in docs/refusals.md.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.rule.code().unwrap_or(Code::NO_RULE),
            Self::Locked { .. } | Self::Changed { .. } => Code::BUSY,
            Self::OpenNebula { .. } => Code::OPENNEBULA,
            Self::Ceph { error, .. } => code_of_ceph(error),
            Self::Disk(_) => Code::DISK,
            Self::Config(_) => Code::CONFIGURATION,
            Self::ForcedInPart(_) => Code::FORCED_IN_PART,
            Self::Unfit(unfit) => unfit.code(),
        }
    }

    /// The sentence, with its code first.
    pub(crate) fn coded(&self) -> String {
        format!("{} {self}", self.code())
    }

    /// One line for OpenNebula, which cuts it after about 60 characters for `onevm show`, and writes all of it into the
    /// VM's log: what is wrong first, then what to type.
    pub fn for_oned(&self, vm: i32) -> String {
        format!("{} {self}; more: onemirror show {vm}", self.code())
    }

    /// Whether everything is as it was: refused, not failed half-way.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unfit(unfit) => unfit.is_refusal(),
            Self::Refused(_) | Self::Disk(_) => true,
            other => other.is_passing(),
        }
    }

    /// Whether a run that begins again, with new locks and a new look, may well get through.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Changed { .. })
    }
}

/// Whether this `USER_TEMPLATE/ERROR` is a refusal of onemirror: its code stands at the beginning, or after what oned has
/// put before it (`Thu Nov 26 17:00:00 2026: DEPLOY: OM31 one-7 is in use …`).
pub fn is_own_refusal(error: &str) -> bool {
    error.split(": ").any(|part| Code::begins(part).is_some())
}

/// A text as one plain sentence for oned: a single line that does not begin with a dash.
pub fn first_sentence(text: &str) -> String {
    crate::text::printable(text).trim_start_matches([' ', '-']).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onemirror_protocol::advice::{Advice, Place};

    #[test]
    fn only_silence_is_silence() {
        let (what, detail, endpoint) = (String::new(), String::new(), String::new());
        let one = |error: OneError| FrontEndError::from(error).denial().map(|denial| denial.cause);
        let timeout = OneError::Timeout { endpoint: endpoint.clone(), deadline: std::time::Duration::ZERO };
        for error in [
            OneError::Unreachable { endpoint: endpoint.clone(), detail: detail.clone() },
            OneError::Interrupted { endpoint: endpoint.clone(), detail: detail.clone() },
            timeout,
            OneError::Http(502),
            OneError::Http(503),
        ] {
            assert_eq!(one(error.clone()), None, "{error:?}");
        }
        let (untrusted, bad) = (detail.clone(), detail.clone());
        for (error, cause) in [
            (OneError::Authentication(String::new()), DenialCause::Access),
            (OneError::Authorization(String::new()), DenialCause::Access),
            (OneError::Http(401), DenialCause::Access),
            (OneError::Untrusted { endpoint: endpoint.clone(), detail: untrusted }, DenialCause::Certificate),
            (OneError::BadAnswer { endpoint: endpoint.clone(), detail: bad }, DenialCause::Unintelligible),
            (OneError::Http(404), DenialCause::Unintelligible),
            (OneError::Internal("no leader found".into()), DenialCause::NoLeader),
            (OneError::Internal("something".into()), DenialCause::Unintelligible),
            (OneError::Configuration(String::new()), DenialCause::NoWay),
        ] {
            assert_eq!(one(error.clone()), Some(cause), "{error:?}");
        }
        assert_eq!(FrontEndError::Silent(String::new()).denial(), None);
        let ceph = |error: &CephError| denial_of(error).map(|denial| denial.cause);
        let cluster = String::new();
        assert_eq!(
            ceph(&CephError::Unreachable { what: what.clone(), cluster, detail: detail.clone() }),
            None
        );
        for (error, cause) in [
            (CephError::PermissionDenied { what: what.clone(), detail: detail.clone() }, DenialCause::Access),
            (CephError::NoWay { what: what.clone(), detail: detail.clone() }, DenialCause::NoWay),
            (
                CephError::BadAnswer { what: what.clone(), detail: detail.clone() },
                DenialCause::Unintelligible,
            ),
            (CephError::Failed { what, status: 1, detail }, DenialCause::Unintelligible),
        ] {
            assert_eq!(ceph(&error), Some(cause), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_is_known_again_in_what_oned_made_of_it_and_nothing_else_is() {
        let refusal = RunError::Refused(Refusal {
            image: "one/one-7".parse().unwrap(),
            cause: "is in use on site-b: VM 3 is RUNNING".into(),
            advice: Advice::command(Place::There("site-b".into()), "onevm poweroff 3"),
            rule: Rule::RunningThere,
        });
        let line = refusal.for_oned(12);
        assert_eq!(
            line,
            "OM31 one-7 is in use on site-b: VM 3 is RUNNING; on site-b: onevm poweroff 3; more: onemirror show 12"
        );
        for before in ["", "Thu Nov 26 17:00:00 2026: DEPLOY: ", "x: Error executing image transfer script: "]
        {
            let shown: String = format!("{before}{line}").chars().take(100).collect();
            assert!(is_own_refusal(&shown), "{shown}");
        }
        for other in [
            "",
            "Thu Nov 26 17:00:00 2026: DEPLOY: error: one-7 OM31 is what a guest said",
            "OM3 x",
            "OM312 x",
            "OM+1 x",
            "COM31 x",
            "OM31",
        ] {
            assert!(!is_own_refusal(other), "{other}");
        }
    }
}

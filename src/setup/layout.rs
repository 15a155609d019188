//! Where things are on a front-end.

use super::artifacts::TIMER;
use crate::actions::Driver;
use crate::config;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where packages put units of systemd.
const PACKAGE_UNITS: &str = "/usr/lib/systemd/system";
/// Where administrators put theirs; systemd prefers those.
const LOCAL_UNITS: &str = "/etc/systemd/system";

/// The folders of one OpenNebula installation, and what onemirror puts there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `$ONE_LOCATION` of a self-contained installation.
    pub one_location: Option<PathBuf>,
    /// The program.
    pub binary: PathBuf,
    /// The configuration.
    pub configuration: PathBuf,
    /// The file with `user:password` of the other front-end.
    pub peer_auth: PathBuf,
    /// OpenNebula's `remotes`.
    pub remotes: PathBuf,
    /// Where the reconcile service and timer are put.
    pub units: PathBuf,
    /// The configuration of logrotate.
    pub logrotate: PathBuf,
    /// The audit log.
    pub audit_log: PathBuf,
    /// onemirror's own small state.
    pub state: PathBuf,
}

impl Layout {
    /// That of this process's environment.
    pub fn of_environment() -> Self {
        let one_location = std::env::var_os("ONE_LOCATION").filter(|value| !value.is_empty());
        let mut layout = Self::of(one_location);
        // a package brings the units along
        if layout.one_location.is_none() && Path::new(PACKAGE_UNITS).join(TIMER).exists() {
            layout.units = PACKAGE_UNITS.into();
        }
        layout
    }

    /// That of an installation by packages.
    pub fn of_system() -> Self {
        Self::of(None)
    }

    fn of(one_location: Option<OsString>) -> Self {
        let audit_log = config::audit_log_path_in(one_location.clone());
        let state = config::state_dir_in(one_location.clone());
        match one_location.map(PathBuf::from) {
            Some(root) => Self {
                binary: root.join("bin/onemirror"),
                configuration: root.join("etc/onemirror.conf"),
                peer_auth: root.join("etc/onemirror.peer_auth"),
                remotes: root.join("var/remotes"),
                units: root.join("share/onemirror"),
                logrotate: root.join("share/onemirror/logrotate.conf"),
                audit_log,
                state,
                one_location: Some(root),
            },
            None => Self {
                one_location: None,
                binary: "/usr/bin/onemirror".into(),
                configuration: "/etc/one/onemirror.conf".into(),
                peer_auth: "/etc/one/onemirror.peer_auth".into(),
                remotes: "/var/lib/one/remotes".into(),
                units: LOCAL_UNITS.into(),
                logrotate: "/etc/logrotate.d/onemirror".into(),
                audit_log,
                state,
            },
        }
    }

    /// The folder in which OpenNebula looks for a driver's actions.
    pub fn driver(&self, driver: Driver) -> PathBuf {
        self.remotes.join(driver.folder())
    }

    /// Where units would stand before those that a package has brought.
    pub fn overriding_units(&self) -> Option<&'static Path> {
        (self.units == Path::new(PACKAGE_UNITS)).then_some(Path::new(LOCAL_UNITS))
    }

    /// The folder of a driver's stock actions.
    pub fn stock_driver(&self, driver: Driver) -> PathBuf {
        self.remotes.join(driver.stock_folder())
    }

    /// The scripts that OpenNebula's hooks call.
    pub fn hook_scripts(&self) -> PathBuf {
        self.remotes.join("hooks/onemirror")
    }

    /// The name under which a file is written before it takes its place.
    pub fn unfinished(path: &Path) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".onemirror-new");
        path.with_file_name(name)
    }
}

#[cfg(test)]
impl Layout {
    pub(super) fn for_tests(one_location: Option<&str>) -> Self {
        Self::of(one_location.map(OsString::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator as _;

    #[test]
    fn what_is_unfinished_lies_beside_it_and_is_no_action() {
        assert_eq!(Layout::unfinished(Path::new("/a/tm/ceph/ln")), Path::new("/a/tm/ceph/.ln.onemirror-new"));
        let layout = Layout::for_tests(Some("/srv/one"));
        assert_eq!(layout.driver(Driver::Transfer), Path::new("/srv/one/var/remotes/tm/ceph"));
        for driver in Driver::iter() {
            assert_eq!(layout.stock_driver(driver).parent(), layout.driver(driver).parent());
        }
    }
}

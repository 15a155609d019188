//! Every action of OpenNebula's two `ceph` drivers, and what onemirror does about it.
//!
//! One table for all: setup wraps what is guarded, doctor wants it wrapped, `docs/actions.md` is held to it, and so is
//! the list of the actions that OpenNebula 6.10 to 7.4 have.

use std::path::Path;

/// A driver of OpenNebula that works on RBD images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::EnumIter)]
pub enum Driver {
    /// The transfer manager: the disks of VMs.
    Transfer,
    /// The datastore driver: images.
    Datastore,
}

impl Driver {
    /// Its folder below `remotes`.
    pub fn folder(self) -> &'static Path {
        Path::new(match self {
            Self::Transfer => "tm/ceph",
            Self::Datastore => "datastore/ceph",
        })
    }

    /// The folder of its stock actions, at the same depth, since they find their own files from where they are.
    pub fn stock_folder(self) -> &'static Path {
        Path::new(match self {
            Self::Transfer => "tm/ceph.stock",
            Self::Datastore => "datastore/ceph.stock",
        })
    }

    /// The subcommand of onemirror that its wrappers call.
    pub fn subcommand(self) -> &'static str {
        match self {
            Self::Transfer => "tm",
            Self::Datastore => "datastore",
        }
    }
}

/// What onemirror does about an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Treatment {
    /// It stands in front: looks first, then lets it through, answers in its place, or refuses.
    Guarded,
    /// It lets it through, and tells afterwards what came of it: `list` and `doctor`.
    Watched,
    /// It has no need to do anything.
    Passed,
}

/// An action and what onemirror does about it.
#[derive(Clone, Copy, Debug)]
pub struct ActionRow {
    /// Whose.
    pub driver: Driver,
    /// Its name; suffixed forms such as `ln.ssh` are the same action.
    pub name: &'static str,
    /// What is done.
    pub treatment: Treatment,
    /// Why.
    pub why: &'static str,
}

const fn transfer(name: &'static str, treatment: Treatment, why: &'static str) -> ActionRow {
    ActionRow { driver: Driver::Transfer, name, treatment, why }
}

const fn datastore(name: &'static str, treatment: Treatment, why: &'static str) -> ActionRow {
    ActionRow { driver: Driver::Datastore, name, treatment, why }
}

use Treatment::{Guarded, Passed, Watched};

/// All of them.
pub const ROWS: [ActionRow; 33] = [
    transfer("clone", Guarded, "takes whatever bears the name of the VM's clone for that clone"),
    transfer("context", Guarded, "comes before every boot of a VM with a CONTEXT section: the gate"),
    transfer("cpds", Passed, "copies a disk into a new image; Ceph refuses a name that is taken"),
    transfer("delete", Guarded, "deletes by name, with all snapshots and what was cloned from them"),
    transfer("failmigrate", Passed, "does nothing"),
    transfer("ln", Guarded, "removes `@snap`, a write, and comes before the first boot: the gate"),
    transfer("mkimage", Guarded, "fails with Ceph's words where another VM's disk has the name"),
    transfer("mkswap", Guarded, "the same"),
    transfer("monitor", Passed, "reads how full the pool is"),
    transfer("mv", Passed, "moves the VM's folder; images stay where they are"),
    transfer("mvds", Guarded, "a VM lets its disk go: the release"),
    transfer("postbackup", Passed, "removes temporary files"),
    transfer("postbackup_live", Passed, "removes temporary files"),
    transfer("postmigrate", Passed, "removes the VM's folder on the host it left"),
    transfer("prebackup", Passed, "reads the disk; Ceph refuses its snapshot on a copy that is not primary"),
    transfer("prebackup_live", Passed, "the same, of a VM that runs, so on a primary copy"),
    transfer("premigrate", Passed, "copies the VM's folder to another host"),
    transfer("resize", Guarded, "writes to the image, which only a primary copy takes"),
    transfer("restore", Guarded, "puts a new image in the place of the disk and deletes the old one"),
    transfer("snap_create", Guarded, "writes to the image, which only a primary copy takes"),
    transfer("snap_create_live", Passed, "the VM runs, so its copy is primary; Ceph refuses any other"),
    transfer("snap_delete", Guarded, "writes to the image, or to the one that a revert has set aside"),
    transfer(
        "snap_revert",
        Guarded,
        "renames the image and puts a clone in its place, which is another image",
    ),
    datastore("clone", Watched, "makes `one-ID`; doctor tells where both sites make images in one pool"),
    datastore("cp", Watched, "the same"),
    datastore("export", Passed, "reads the image"),
    datastore("mkfs", Watched, "makes `one-ID`; doctor tells where both sites make images in one pool"),
    datastore("monitor", Passed, "reads how full the pool is"),
    datastore("rm", Guarded, "deletes the image, with all snapshots and what was cloned from them"),
    datastore("snap_delete", Guarded, "writes to the image, or to the one that a revert has set aside"),
    datastore("snap_flatten", Guarded, "puts a new image in the place of the old one, which it deletes"),
    datastore(
        "snap_revert",
        Guarded,
        "renames the image and puts a clone in its place, which is another image",
    ),
    datastore("stat", Passed, "reads the size of a file that is to become an image"),
];

/// The row of an action, by the name of its file, which may have a suffix.
pub fn row(driver: Driver, file: &str) -> Option<&'static ActionRow> {
    let name = file.split('.').next().unwrap_or_default();
    ROWS.iter().find(|row| row.driver == driver && row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use strum::IntoEnumIterator as _;

    /// Files of the datastore driver that are no actions.
    const NO_ACTIONS: [&str; 2] = ["ceph.conf", "ceph_utils.sh"];

    #[test]
    fn every_action_of_every_release_has_a_row_and_every_row_an_action() {
        let mut seen = BTreeSet::new();
        let listing = include_str!("../tests/fixtures/opennebula/actions.txt");
        for line in listing.lines() {
            let mut words = line.split(' ');
            let (release, folder) = (words.next().unwrap(), Path::new(words.next().unwrap()));
            let driver = Driver::iter().find(|driver| driver.folder() == folder).unwrap();
            for file in words.filter(|file| !NO_ACTIONS.contains(file)) {
                let row = row(driver, file).unwrap_or_else(|| panic!("{release}: {folder:?} {file}"));
                seen.insert((driver, row.name));
            }
        }
        assert!(listing.starts_with("6.10.0 ") && listing.contains("\n7.4.0 "));
        let rows: BTreeSet<_> = ROWS.iter().map(|row| (row.driver, row.name)).collect();
        assert_eq!((rows.len(), rows), (ROWS.len(), seen));
    }

    #[test]
    fn the_page_about_the_actions_says_what_the_table_says() {
        let page = include_str!("../docs/actions.md");
        for driver in Driver::iter() {
            let of_driver = ROWS.iter().filter(|row| row.driver == driver);
            let lines: String = of_driver
                .map(|row| format!("| `{}` | {} | {} |\n", row.name, row.treatment, row.why))
                .collect();
            assert!(page.contains(&format!("`{}`", driver.folder().display())), "{driver:?}");
            assert!(
                page.contains(&format!("|---|---|---|\n{lines}\n")),
                "docs/actions.md, {driver:?}:\n{lines}"
            );
        }
    }
}

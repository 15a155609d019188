//! Whether a disk still has a copy that a failover could use, judged from what was found. No I/O.
//!
//! Snapshots, restores and resizes change images beside the handoff. Nothing fails then, and nobody is told, until the
//! day on which the copy is needed. Each [`Concern`] says what is so and what to type.

use crate::ceph::{DaemonState, ReplayState, StatusReport};
use crate::opennebula::stock::is_left_by_revert;
use onemirror_protocol::advice::{Advice, Place};
use onemirror_protocol::{ImageSpec, WholeCopy};
use serde::Serialize;
use std::time::Duration;

/// How late the newest mirror snapshot may be, in intervals of its schedule.
const INTERVALS: u32 = 2;
/// Bytes of a megabyte, in which oned counts.
const MEGABYTE: u64 = 1024 * 1024;

/// What is wrong with a disk's protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, strum::EnumIter)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The other site has an older image of its name instead of its copy, and a failover would boot that.
    OlderImageThere,
    /// It is not mirrored, although somebody counts on it.
    NotMirrored,
    /// It is a clone that is mirrored by snapshots. When such a one first writes to an object, Ceph puts what its base holds of
    /// that into the clone's earlier snapshots, too; those were sent already, and the next one brings what was written alone
    /// (seen on 16.2; not mended in Ceph by now: ceph#53672, ceph#60290).
    CloneBySnapshots,
    /// Its copy does not follow.
    CopyInError,
    /// Its copy does not follow, since nobody copies: rbd-mirror was stopped, or died.
    DaemonDown,
    /// Snapshot mode, and nothing takes mirror snapshots where it is written.
    NoSchedule,
    /// Snapshot mode, and the copy is older than its schedule allows.
    SnapshotsLate,
    /// It has another size than oned believes.
    OtherSize,
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Concern {
    /// What kind of thing.
    pub kind: Kind,
    /// The VM here, if it is about one's disk.
    pub vm: Option<i32>,
    /// `pool[/namespace]/image`.
    pub image: String,
    /// What is so, in words that follow the image's name.
    pub what: String,
    /// What to do about it.
    pub advice: Advice,
}

/// The disk of a VM of this site.
#[derive(Clone, Copy, Debug)]
pub struct DiskFacts {
    /// The VM's id.
    pub vm: i32,
    /// The disk's number.
    pub disk: i32,
    /// What oned believes its size to be, in megabytes.
    pub size: Option<u64>,
    /// Whether other disks of the VM are mirrored.
    pub others_are_mirrored: bool,
}

/// An image that the image here was cloned from.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The image.
    pub image: ImageSpec,
    /// Whether it is mirrored, primary here, and by mirror snapshots.
    pub sends_snapshots: bool,
    /// Whether it is mirrored at all.
    pub is_mirrored: bool,
    /// Where it belongs, if that is written on it.
    pub home: Option<String>,
}

/// What is known of the mirror snapshots' schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Nothing: the user may not see it, or it is not understood.
    Unknown,
    /// There is none.
    None,
    /// A snapshot each time that this is over.
    Every(Duration),
}

/// What the image here is.
#[derive(Clone, Debug)]
pub enum HowMirrored {
    /// It is not mirrored.
    NotMirrored {
        /// Whether it has a journal, in which case it is mirrored by that.
        has_journal: bool,
        /// Whether its pool mirrors every image that has a journal, and no other.
        pool_mirrors_journals: bool,
        /// Whether the other front-end has an image of this name registered; `None`: not known.
        registered_there: Option<bool>,
    },
    /// It is the primary copy, mirrored by its journal.
    WritesByJournal,
    /// It is the primary copy, mirrored by snapshots.
    WritesBySnapshot {
        /// When they are taken.
        schedule: Schedule,
        /// How old the newest snapshot of the copy that follows is, and how old the newest one here is.
        age: Option<SnapshotAge>,
    },
    /// It is the copy that follows.
    Follows,
}

/// How old mirror snapshots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAge {
    /// The newest one that has arrived at the copy that follows.
    pub arrived: Duration,
    /// The newest one that was taken.
    pub taken: Duration,
}

/// All that is known of one image.
#[derive(Clone, Debug)]
pub struct ProtectionFacts<'a> {
    /// This site's name.
    pub here: &'a str,
    /// The other one's.
    pub there: &'a str,
    /// The image.
    pub image: &'a ImageSpec,
    /// The disk that it is.
    pub disk: Option<DiskFacts>,
    /// What it is here.
    pub standing: HowMirrored,
    /// Whether the other cluster mirrors an image of this name that is not the other copy of this one.
    pub another_there: bool,
    /// What it was cloned from, where that was asked.
    pub parent: Option<Parent>,
    /// Whether it is a clone.
    pub is_clone: bool,
    /// Whether the copy that follows shows the same token, so that it holds nothing of its own.
    pub is_followed: bool,
    /// Where it belongs, if that is written on it.
    pub home: Option<&'a str>,
    /// What is reported of the copy that follows, wherever that is.
    pub report: Option<&'a ReplayState>,
    /// Whether the daemon that reported it is gone.
    pub is_daemon_down: bool,
    /// Its size in bytes, if it is here.
    pub size: Option<u64>,
}

impl<'a> ProtectionFacts<'a> {
    /// The same of the disk of a VM, which is so many bytes large.
    #[must_use]
    pub fn of_disk(self, disk: DiskFacts, size: u64) -> Self {
        Self { disk: Some(disk), size: Some(size), ..self }
    }

    /// The same with what is reported of the copy that follows.
    #[must_use]
    pub fn reported(self, report: Option<&'a StatusReport>) -> Self {
        let is_daemon_down = report.is_some_and(|report| report.daemon == DaemonState::Down);
        Self { report: report.map(|report| &report.replay), is_daemon_down, ..self }
    }

    /// What is wrong, in the order of [`Kind`].
    pub fn judge(&self) -> Vec<Concern> {
        let mut found = Vec::new();
        if self.another_there {
            found.push(self.older_there());
        }
        match &self.standing {
            HowMirrored::NotMirrored { .. } if self.another_there => {}
            HowMirrored::NotMirrored { registered_there, .. } => {
                found.extend(self.not_mirrored(*registered_there == Some(true)));
            }
            HowMirrored::WritesByJournal | HowMirrored::Follows => found.extend(self.in_error()),
            HowMirrored::WritesBySnapshot { schedule, age } => {
                found.extend(self.is_clone.then(|| self.clone_by_snapshots()));
                found.extend(self.in_error());
                found.extend(self.snapshots(*schedule, *age));
            }
        }
        found.extend(self.other_size());
        // these name the daemon already
        let is_told = found.iter().any(|it| matches!(it.kind, Kind::CopyInError | Kind::SnapshotsLate));
        found.extend(self.daemon_down().filter(|_| !is_told));
        found.sort_by_key(|concern| concern.kind);
        found
    }

    fn concern(&self, kind: Kind, what: String, advice: Advice) -> Concern {
        let image = self.image.to_string();
        Concern { kind, vm: self.disk.map(|disk| disk.vm), image, what, advice }
    }

    /// What the disk was before it was reverted to a snapshot of it.
    fn left_by_revert(&self) -> Option<&Parent> {
        self.parent.as_ref().filter(|parent| is_left_by_revert(&parent.image, self.image))
    }

    fn older_there(&self) -> Concern {
        let there = self.there;
        let is_mirrored = !matches!(self.standing, HowMirrored::NotMirrored { .. });
        let state = if is_mirrored { "has no copy" } else { "is not mirrored any more and has no copy" };
        let what =
            format!("{state} on {there}, which has an older image of this name; a failover would boot that");
        let again = (!is_mirrored).then(|| self.mirrored_again());
        let is_sent_first = |left: &&Parent| left.sends_snapshots;
        let gone = format!("rbd-mirror on {there} has removed or renamed the older one");
        let advice = match (self.left_by_revert().filter(is_sent_first), again) {
            // the copy there takes its original's new name with the next snapshot
            (Some(left), again) => {
                let send = format!("rbd mirror image snapshot {}", left.image);
                Advice::commands(Place::Here, std::iter::once(send).chain(again.into_iter().flatten()))
            }
            (None, Some(again)) => Advice::commands(Place::Here, again)
                .and(Advice::wait(format!("it is copied as soon as {gone}"))),
            (None, None) => Advice::wait(format!("wait until {gone}")),
        };
        self.concern(Kind::OlderImageThere, what, advice)
    }

    fn not_mirrored(&self, is_registered_there: bool) -> Option<Concern> {
        let there = self.there;
        let why = if self.left_by_revert().is_some_and(|left| left.is_mirrored) {
            format!("is not mirrored since it was reverted to a disk snapshot: {there} has no copy of it")
        } else if is_registered_there {
            format!("is not mirrored: it is registered on {there}, which has no copy of it")
        } else if self.disk.is_some_and(|disk| disk.others_are_mirrored) {
            format!("is not mirrored, and other disks of its VM are: {there} has no copy of it")
        } else {
            return None;
        };
        let again = Advice::commands(Place::Here, self.mirrored_again());
        Some(self.concern(Kind::NotMirrored, why, again))
    }

    /// What has the image mirrored.
    fn mirrored_again(&self) -> Vec<String> {
        let image = self.image;
        match self.standing {
            HowMirrored::NotMirrored { pool_mirrors_journals: true, .. } => {
                vec![format!("rbd feature enable {image} journaling")]
            }
            HowMirrored::NotMirrored { has_journal: true, .. } => {
                vec![format!("rbd mirror image enable {image} journal")]
            }
            _ if self.is_clone => {
                let left = self.left_by_revert().and_then(|left| left.home.as_deref());
                self.whole_copy().mirrored(left)
            }
            _ => vec![format!("rbd mirror image enable {image} snapshot")],
        }
    }

    fn whole_copy(&self) -> WholeCopy<'a> {
        WholeCopy { image: self.image, at: self.here, vm: self.disk.map(|disk| disk.vm) }
    }

    fn clone_by_snapshots(&self) -> Concern {
        let what = format!(
            "is a clone that is mirrored by snapshots, and Ceph leaves out what its base holds, so its copy on {} is not whole",
            self.there
        );
        let advice = match self.is_followed {
            true => Advice::commands(Place::Here, self.whole_copy().mirrored_anew(self.home)),
            // it may hold writes of its own, and would be thrown away with them
            false => Advice::wait(format!("until its copy on {} follows, then look again", self.there)),
        };
        self.concern(Kind::CloneBySnapshots, what, advice)
    }

    fn in_error(&self) -> Option<Concern> {
        let Some(ReplayState::Error(said)) = self.report else { return None };
        let site = if matches!(self.standing, HowMirrored::Follows) { self.here } else { self.there };
        let what = format!("has a copy on {site} that does not follow: {said}");
        Some(self.concern(Kind::CopyInError, what, follow_again(&self.image.to_string(), site)))
    }

    /// What a daemon said last stands in Ceph for as long as nobody says anything else.
    fn daemon_down(&self) -> Option<Concern> {
        let said_it_follows = matches!(
            self.report?,
            ReplayState::Replaying(_) | ReplayState::Syncing { .. } | ReplayState::Stopped
        );
        if !self.is_daemon_down || !said_it_follows {
            return None;
        }
        let (site, place) = match self.standing {
            HowMirrored::NotMirrored { .. } => return None,
            HowMirrored::Follows => (self.here, Place::Here),
            _ => (self.there, Place::There(self.there.to_owned())),
        };
        let what = format!("has a copy on {site} that does not follow: no rbd-mirror copies it");
        // a daemon that lost its way to the other cluster says no more than one that is gone
        let start = Advice::command(place, "systemctl start ceph-rbd-mirror.target")
            .and(Advice::command(Place::Here, "onemirror doctor").when("if it runs already"));
        Some(self.concern(Kind::DaemonDown, what, start))
    }

    fn snapshots(&self, schedule: Schedule, age: Option<SnapshotAge>) -> Option<Concern> {
        let (here, there) = (self.here, self.there);
        let every = match schedule {
            Schedule::Unknown => return None,
            Schedule::None => {
                let what = format!(
                    "has no schedule on {here}: what is written is not sent to {there} until it is handed over"
                );
                let add = format!("rbd mirror snapshot schedule add {} 5m", options(self.image));
                return Some(self.concern(Kind::NoSchedule, what, Advice::command(Place::Here, add)));
            }
            Schedule::Every(every) => every,
        };
        let age = age.filter(|age| age.arrived > every * INTERVALS)?;
        let what = format!(
            "has a copy on {there} that is {} old, and its schedule is every {}",
            spoken(age.arrived),
            spoken(every)
        );
        let advice = if age.taken > every * INTERVALS {
            let now = Advice::command(Place::Here, format!("rbd mirror image snapshot {}", self.image));
            now.and(
                Advice::command(Place::Here, "ceph mgr fail")
                    .when("and for the schedule, which does not run"),
            )
        } else {
            Advice::command(Place::There(there.to_owned()), "systemctl restart ceph-rbd-mirror.target")
        };
        Some(self.concern(Kind::SnapshotsLate, what, advice))
    }

    /// oned counts whole megabytes, and does not always round them up. A copy that follows cannot be resized.
    fn other_size(&self) -> Option<Concern> {
        if matches!(self.standing, HowMirrored::Follows) {
            return None;
        }
        let (disk, bytes) = (self.disk?, self.size?);
        let (DiskFacts { vm, disk, size, .. }, real) = (disk, bytes.div_ceil(MEGABYTE));
        let believed = size.filter(|believed| believed.abs_diff(real) > 1)?;
        let what = format!("is {real} MB, and OpenNebula here believes that it is {believed} MB");
        let advice = if real > believed {
            // Ceph refuses to resize to the size that there is
            Advice::command(Place::Here, format!("onevm disk-resize {vm} {disk} {}", real + 1))
        } else {
            // it may have been registered wrongly, which costs quota and nothing else
            let resize = format!("rbd resize --size {believed} {}", self.image);
            Advice::command(Place::Here, resize).when("if that is the size it is to have")
        };
        Some(self.concern(Kind::OtherSize, what, advice))
    }
}

/// What to do about a copy whose daemon stopped with an error.
pub fn follow_again(image: &str, site: &str) -> Advice {
    Advice::decide(format!(
        "on {site}: for each clone that rbd children --all {image} names, rbd flatten CLONE: a snapshot that has clones there cannot go with its original; if it names none, the log of rbd-mirror there tells why (docs/runbook.md, \"resync does not end\")"
    ))
}

/// The image, as the commands about schedules want it.
fn options(image: &ImageSpec) -> String {
    let namespace =
        image.namespace().map(|namespace| format!(" --namespace {namespace}")).unwrap_or_default();
    format!("--pool {}{namespace} --image {}", image.pool(), image.image())
}

fn spoken(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 60 * 2 => format!("{seconds} s"),
        seconds if seconds < 60 * 60 * 2 => format!("{} minutes", seconds / 60),
        seconds => format!("{} hours", seconds / 60 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_MIRRORED: HowMirrored =
        HowMirrored::NotMirrored { has_journal: false, pool_mirrors_journals: false, registered_there: None };

    fn registered(registered_there: Option<bool>) -> HowMirrored {
        HowMirrored::NotMirrored { has_journal: false, pool_mirrors_journals: false, registered_there }
    }

    fn parent(image: &str, is_mirrored: bool) -> Option<Parent> {
        let (image, home) = (image.parse().unwrap(), Some("site-a".into()));
        Some(Parent { image, sends_snapshots: is_mirrored, is_mirrored, home })
    }

    fn facts(image: &ImageSpec, standing: HowMirrored) -> ProtectionFacts<'_> {
        ProtectionFacts {
            here: "site-a",
            there: "site-b",
            image,
            disk: Some(DiskFacts { vm: 3, disk: 1, size: Some(16), others_are_mirrored: false }),
            standing,
            another_there: false,
            parent: None,
            is_clone: false,
            is_followed: true,
            home: None,
            report: None,
            is_daemon_down: false,
            size: Some(16 << 20),
        }
    }

    fn judge(standing: HowMirrored, report: Option<&ReplayState>) -> Vec<Concern> {
        let image = "two/one-7".parse().unwrap();
        ProtectionFacts { report, ..facts(&image, standing) }.judge()
    }

    fn kinds(standing: HowMirrored) -> Vec<Kind> {
        judge(standing, None).into_iter().map(|concern| concern.kind).collect()
    }

    /// Everything that can be known of an image that is not mirrored.
    #[test]
    fn an_image_that_is_not_mirrored_is_told_of_only_where_somebody_counts_on_it() {
        let image = "two/one-7".parse().unwrap();
        let parents = [
            (None, false),
            (parent("two/one-5", true), false),
            (parent("two/one-7-0:1", false), false),
            (parent("two/one-7-0:1", true), true),
        ];
        for another_there in [false, true] {
            for registered_there in [None, Some(false), Some(true)] {
                for (parent, reverted) in &parents {
                    for others_are_mirrored in [false, true] {
                        let counted_on = registered_there == Some(true) || *reverted || others_are_mirrored;
                        let expected: &[Kind] = match (another_there, counted_on) {
                            (true, _) => &[Kind::OlderImageThere],
                            (false, true) => &[Kind::NotMirrored],
                            (false, false) => &[],
                        };
                        let disk = DiskFacts { vm: 3, disk: 1, size: None, others_are_mirrored };
                        let (disk, parent) = (Some(disk), parent.clone());
                        let facts = facts(&image, registered(registered_there));
                        let found = ProtectionFacts { disk, another_there, parent, ..facts }.judge();
                        let kinds: Vec<Kind> = found.iter().map(|concern| concern.kind).collect();
                        assert_eq!(kinds, expected, "{found:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn after_a_revert_the_older_image_gets_its_new_name_first() {
        let image = "two/one-7".parse().unwrap();
        let found = |standing, parent: Option<Parent>| {
            let is_clone = parent.is_some();
            ProtectionFacts { another_there: true, is_clone, parent, ..facts(&image, standing) }
                .judge()
                .remove(0)
        };
        let reverted = || parent("two/one-7-0:1", true);
        insta::assert_snapshot!(found(NOT_MIRRORED, reverted()).what, @"is not mirrored any more and has no copy on site-b, which has an older image of this name; a failover would boot that");
        insta::assert_snapshot!(found(NOT_MIRRORED, reverted()).advice, @"rbd mirror image snapshot two/one-7-0:1 && rbd flatten two/one-7 && rbd mirror image enable two/one-7 snapshot && onemirror rehome 3");
        insta::assert_snapshot!(found(NOT_MIRRORED, None).advice, @"rbd mirror image enable two/one-7 snapshot; it is copied as soon as rbd-mirror on site-b has removed or renamed the older one");
        // mirrored again, and the older image is still in the way
        insta::assert_snapshot!(found(by_snapshot(Schedule::Unknown, None), reverted()).what, @"has no copy on site-b, which has an older image of this name; a failover would boot that");
        insta::assert_snapshot!(found(by_snapshot(Schedule::Unknown, None), reverted()).advice, @"rbd mirror image snapshot two/one-7-0:1");
        insta::assert_snapshot!(found(HowMirrored::WritesByJournal, None).advice, @"wait until rbd-mirror on site-b has removed or renamed the older one");
    }

    #[test]
    fn an_image_is_mirrored_again_as_its_pool_does_it() {
        let found = |has_journal, pool_mirrors_journals| {
            let registered_there = Some(true);
            judge(HowMirrored::NotMirrored { has_journal, pool_mirrors_journals, registered_there }, None)
                .remove(0)
        };
        insta::assert_snapshot!(found(false, false).what, @"is not mirrored: it is registered on site-b, which has no copy of it");
        insta::assert_snapshot!(found(false, false).advice, @"rbd mirror image enable two/one-7 snapshot");
        insta::assert_snapshot!(found(true, false).advice, @"rbd mirror image enable two/one-7 journal");
        insta::assert_snapshot!(found(false, true).advice, @"rbd feature enable two/one-7 journaling");
    }

    #[test]
    fn a_clone_by_snapshots_is_told_and_mirrored_anew_without_its_base() {
        let image = "two/one-7".parse().unwrap();
        let found = |disk, home| {
            let facts = facts(&image, by_snapshot(Schedule::Unknown, None));
            ProtectionFacts { is_clone: true, disk, home, ..facts }.judge()
        };
        let disk = facts(&image, HowMirrored::Follows).disk;
        let told = found(disk, None).remove(0);
        assert_eq!(told.kind, Kind::CloneBySnapshots);
        insta::assert_snapshot!(told.what, @"is a clone that is mirrored by snapshots, and Ceph leaves out what its base holds, so its copy on site-b is not whole");
        insta::assert_snapshot!(told.advice, @"rbd mirror image disable two/one-7 && rbd flatten two/one-7 && rbd mirror image enable two/one-7 snapshot");
        let advice = |disk, home| found(disk, Some(home)).remove(0).advice.to_string();
        insta::assert_snapshot!(advice(disk, "site-a"), @"rbd mirror image disable two/one-7 && rbd flatten two/one-7 && rbd mirror image enable two/one-7 snapshot && onemirror rehome 3");
        insta::assert_snapshot!(advice(None, "site-b"), @"rbd mirror image disable two/one-7 && rbd flatten two/one-7 && rbd mirror image enable two/one-7 snapshot && onemirror rehome --image two/one-7 --to site-b");
        // what would throw the other copy away is not told while that one may have more
        let facts_of = facts(&image, by_snapshot(Schedule::Unknown, None));
        let alone = ProtectionFacts { is_clone: true, is_followed: false, ..facts_of }.judge().remove(0);
        insta::assert_snapshot!(alone.advice, @"until its copy on site-b follows, then look again");
        // a journal brings every write, and the copy takes it as a clone does
        let by_journal = ProtectionFacts { is_clone: true, ..facts(&image, HowMirrored::WritesByJournal) };
        assert_eq!(by_journal.judge(), []);
    }

    #[test]
    fn only_numbers_of_snapshots_make_a_name_that_a_revert_left() {
        let left = |name: &str| is_left_by_revert(&name.parse().unwrap(), &"two/one-7".parse().unwrap());
        assert!(left("two/one-7-0") && left("two/one-7-0:1:12"));
        for other in [
            "two/one-7",
            "two/one-7-",
            "two/one-70-1",
            "one/one-7-0",
            "two/one-7-0:",
            "two/one-7-3-0",
            "two/one-7-a",
        ] {
            assert!(!left(other), "{other}");
        }
    }

    fn by_snapshot(schedule: Schedule, age: Option<(u64, u64)>) -> HowMirrored {
        let age = age.map(|(arrived, taken)| SnapshotAge {
            arrived: Duration::from_secs(arrived),
            taken: Duration::from_secs(taken),
        });
        HowMirrored::WritesBySnapshot { schedule, age }
    }

    #[test]
    fn snapshots_are_late_after_two_intervals_and_never_by_guessing() {
        let every = Schedule::Every(Duration::from_secs(300));
        assert_eq!(kinds(by_snapshot(Schedule::None, Some((0, 0)))), [Kind::NoSchedule]);
        assert_eq!(kinds(by_snapshot(Schedule::Unknown, Some((1 << 30, 1 << 30)))), []);
        assert_eq!(kinds(by_snapshot(every, None)), []);
        assert_eq!(kinds(by_snapshot(every, Some((600, 600)))), []);
        assert_eq!(kinds(by_snapshot(every, Some((601, 0)))), [Kind::SnapshotsLate]);
        assert_eq!(kinds(HowMirrored::WritesByJournal), []);
        assert_eq!(kinds(HowMirrored::Follows), []);
    }

    #[test]
    fn who_is_late_is_told_from_what_was_taken() {
        let every = Schedule::Every(Duration::from_secs(300));
        let found = |age| judge(by_snapshot(every, Some(age)), None).remove(0);
        insta::assert_snapshot!(found((8000, 20)).what, @"has a copy on site-b that is 2 hours old, and its schedule is every 5 minutes");
        insta::assert_snapshot!(found((8000, 20)).advice, @"on site-b: systemctl restart ceph-rbd-mirror.target");
        insta::assert_snapshot!(found((8000, 8000)).advice, @"rbd mirror image snapshot two/one-7; and for the schedule, which does not run: ceph mgr fail");
        insta::assert_snapshot!(judge(by_snapshot(Schedule::None, None), None)[0].advice, @"rbd mirror snapshot schedule add --pool two --image one-7 5m");
    }

    #[test]
    fn a_copy_in_error_is_told_of_on_both_sites() {
        let error = ReplayState::Error("failed to commit journal event".into());
        let of = |standing| judge(standing, Some(&error))[0].what.clone();
        insta::assert_snapshot!(of(HowMirrored::WritesByJournal), @"has a copy on site-b that does not follow: failed to commit journal event");
        insta::assert_snapshot!(of(HowMirrored::Follows), @"has a copy on site-a that does not follow: failed to commit journal event");
        assert_eq!(of(by_snapshot(Schedule::Unknown, None)), of(HowMirrored::WritesByJournal));
        for fine in [ReplayState::Stopped, ReplayState::SplitBrain, ReplayState::LocalPrimary] {
            assert_eq!(judge(HowMirrored::WritesByJournal, Some(&fine)), []);
        }
    }

    #[test]
    fn a_daemon_that_is_gone_is_told_once() {
        let image = "two/one-7".parse().unwrap();
        let found = |standing, report: ReplayState| {
            let facts = facts(&image, standing);
            ProtectionFacts { report: Some(&report), is_daemon_down: true, ..facts }.judge()
        };
        let stopped = |standing| found(standing, ReplayState::Stopped).remove(0);
        let at_the_other = stopped(HowMirrored::WritesByJournal);
        assert_eq!(at_the_other.kind, Kind::DaemonDown);
        insta::assert_snapshot!(at_the_other.what, @"has a copy on site-b that does not follow: no rbd-mirror copies it");
        insta::assert_snapshot!(at_the_other.advice, @"on site-b: systemctl start ceph-rbd-mirror.target; if it runs already, here: onemirror doctor");
        insta::assert_snapshot!(stopped(HowMirrored::Follows).what, @"has a copy on site-a that does not follow: no rbd-mirror copies it");
        insta::assert_snapshot!(stopped(HowMirrored::Follows).advice, @"systemctl start ceph-rbd-mirror.target; if it runs already: onemirror doctor");
        let kinds = |standing, report| -> Vec<Kind> {
            found(standing, report).into_iter().map(|concern| concern.kind).collect()
        };
        let every = Schedule::Every(Duration::from_secs(300));
        let replaying = || ReplayState::Replaying(crate::ceph::Progress::default());
        assert_eq!(kinds(HowMirrored::WritesByJournal, replaying()), [Kind::DaemonDown]);
        assert_eq!(kinds(by_snapshot(every, Some((601, 0))), replaying()), [Kind::SnapshotsLate]);
        assert_eq!(kinds(HowMirrored::Follows, ReplayState::Error("x".into())), [Kind::CopyInError]);
        // one that follows nobody by right, and one that nobody ever reported on
        assert_eq!(kinds(HowMirrored::Follows, ReplayState::RemoteNotPrimary), []);
        assert_eq!(kinds(HowMirrored::WritesByJournal, ReplayState::Unknown("unknown".into())), []);
        assert_eq!(kinds(NOT_MIRRORED, ReplayState::Stopped), []);
    }

    #[test]
    fn another_size_is_told_with_what_puts_it_right() {
        let image = "one/one-7".parse().unwrap();
        let advice_as = |standing: HowMirrored, bytes: u64, size: u64| {
            let disk = DiskFacts { vm: 3, disk: 1, size: Some(size), others_are_mirrored: false };
            let facts = facts(&image, standing);
            let found = ProtectionFacts { disk: Some(disk), size: Some(bytes), ..facts }.judge();
            found.into_iter().next().map(|concern| concern.advice.to_string())
        };
        let advice = |bytes, size| advice_as(HowMirrored::WritesByJournal, bytes, size);
        assert_eq!(advice(32 << 20, 16).unwrap(), "onevm disk-resize 3 1 33");
        let shrunk = "if that is the size it is to have: rbd resize --size 32 one/one-7";
        assert_eq!(advice(16 << 20, 32).unwrap(), shrunk);
        // nobody can resize it here
        assert_eq!(advice_as(HowMirrored::Follows, 32 << 20, 16), None);
        assert_eq!(advice_as(HowMirrored::Follows, 16 << 20, 32), None);
        // what does not fill a megabyte is rounded this way or that
        for bytes in [(15 << 20) + 1, 16 << 20, (16 << 20) + 1, 17 << 20] {
            assert_eq!(advice(bytes, 16), None, "{bytes}");
        }
    }
}

//! Everything that must be true for a failback to work, and what to do where it is not. No I/O.

pub mod facts;
pub mod find;

use crate::ceph::{ReplayState, is_fsid};
use crate::protection::{Concern, Kind};
use facts::{
    Configuration, Daemon, Examined, ExaminedDisk, ExaminedFrontEnd, ExaminedPool, ExaminedVm, NoAnswer,
    PoolOnCluster,
};
use onemirror_protocol::ImageSpec;
use onemirror_protocol::advice::{Advice, Place};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use strum::IntoEnumIterator as _;

/// Minutes without reconcile after which the timer counts as dead: it runs each minute, and a run may take some.
const RECONCILE_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Seconds that two sites' clocks may differ before audit logs of both can't be read side by side.
const CLOCK_LIMIT: i64 = 5;
/// The recommended `rbd_mirror_journal_poll_age`, in seconds.
const POLL_AGE: f64 = 1.0;
/// The first version of OpenNebula that was looked at, and the first after the last.
const KNOWN_VERSIONS: ((u32, u32), (u32, u32)) = ((6, 10), (7, 5));

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works; it could work better.
    Advice,
    /// Something will not work for some VMs, or nobody would notice that it does not.
    Warning,
    /// Failback does not work.
    Failure,
}

/// What is looked at.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, strum::Display, strum::EnumIter,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Check {
    /// onemirror.conf is there and right.
    Configuration,
    /// The files with passwords are private.
    Credentials,
    /// The way to the other front-end is encrypted.
    Encryption,
    /// onemirror is not switched off.
    Switch,
    /// Wrappers, hooks and programs are in place.
    Setup,
    /// Hooks succeed.
    Hooks,
    /// Reconcile runs.
    Reconcile,
    /// The own front-end answers, and tells everything.
    FrontEndHere,
    /// The other one does.
    FrontEndThere,
    /// Other servers of a front-end need onemirror, too.
    Servers,
    /// The clocks agree.
    Clock,
    /// The own cluster answers, and permits what is needed.
    ClusterHere,
    /// The other one does.
    ClusterThere,
    /// Pools are mirrored both ways, under the configured names.
    Mirroring,
    /// `rbd-mirror` runs here.
    DaemonHere,
    /// It runs there.
    DaemonThere,
    /// The daemons look often enough.
    PollInterval,
    /// A deleted image can be had back.
    DeleteDelay,
    /// VMs can be held at their gate.
    Context,
    /// All disks of a VM go along.
    Disks,
    /// The images of clones go along.
    Parents,
    /// No two VMs' disks get the same name.
    Names,
    /// A VM is waiting on the other site.
    Counterparts,
    /// Copies agree.
    SplitBrain,
    /// Copies follow.
    Replication,
    /// What was changed beside the handoff is still protected.
    Protection,
}

/// What is said of a check that something else stood in the way of.
pub const NOT_LOOKED_AT: &str = "not looked at, see the failures";

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What was looked at.
    pub check: Check,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub text: String,
    /// What to do or to type.
    pub fix: Option<String>,
    /// The same in parts.
    pub advice: Option<Advice>,
}

struct Findings(Vec<Diagnosis>);

impl Findings {
    fn add(&mut self, check: Check, level: Level, text: impl Into<String>, fix: Advice) {
        self.0.push(Diagnosis {
            check,
            level,
            text: text.into(),
            fix: Some(fix.to_string()),
            advice: Some(fix),
        });
    }
}

/// Judges everything; one finding at least per check, in the order of [`Check`].
pub fn examine(facts: &Examined) -> Vec<Diagnosis> {
    let mut found = Findings(Vec::new());
    let mut unknown = BTreeSet::new();
    about_onemirror(facts, &mut found);
    about_front_ends(facts, &mut found, &mut unknown);
    match &facts.configuration {
        Ok(configuration) => {
            about_configuration(configuration, &mut found);
            for pool in &facts.pools {
                about_pool(pool, configuration, &mut found);
            }
            about_delete_delays(&facts.pools, configuration, &mut found);
        }
        Err(_) => unknown.extend([Check::Credentials, Check::Encryption]),
    }
    if facts.pools.is_empty() {
        unknown
            .extend(Check::iter().filter(|check| (Check::ClusterHere..=Check::DeleteDelay).contains(check)));
        unknown.extend([Check::SplitBrain, Check::Replication]);
    }
    for vm in &facts.vms {
        about_vm(vm, facts, &mut found);
    }
    for pool in &facts.shared_pools {
        found.add(
            Check::Names,
            Level::Warning,
            format!("both sites make disks in pool {pool}, and both count from 0, so two of them may get the same name"),
            Advice::decide("give each site a pool of its own for what it makes: docs/runbook.md, A pool per site"),
        );
    }
    match &facts.concerns {
        Some(concerns) => about_protection(concerns, &mut found),
        None => _ = unknown.insert(Check::Protection),
    }
    for check in Check::iter() {
        if !found.0.iter().any(|finding| finding.check == check) {
            let text = if unknown.contains(&check) { NOT_LOOKED_AT } else { "ok" };
            let level = if unknown.contains(&check) { Level::Warning } else { Level::Ok };
            found.0.push(Diagnosis { check, level, text: text.into(), fix: None, advice: None });
        }
    }
    found.0.sort_by_key(|finding| (finding.check, std::cmp::Reverse(finding.level)));
    // what is said of a site is said once, however many pools it has
    let mut said = Vec::new();
    for finding in found.0 {
        if !said.contains(&finding) {
            said.push(finding);
        }
    }
    said
}

fn about_onemirror(facts: &Examined, found: &mut Findings) {
    if let Err(why) = &facts.configuration {
        found.add(
            Check::Configuration,
            Level::Failure,
            why,
            Advice::decide("correct what it names; a new one: onemirror setup --role home|recovery"),
        );
    }
    if let Some(reason) = &facts.switched_off {
        found.add(
            Check::Switch,
            Level::Failure,
            format!("switched off ({reason}): nothing is guarded and nothing is handed over"),
            Advice::command(Place::Here, "onemirror on").when("to end that"),
        );
    }
    match &facts.setup {
        Ok(changes) => {
            for change in changes {
                found.add(
                    Check::Setup,
                    Level::Failure,
                    format!("not in place: {change}"),
                    Advice::command(Place::Here, "onemirror setup --repair").when("as root"),
                );
            }
        }
        Err(why) => {
            found.add(Check::Setup, Level::Failure, why, Advice::command(Place::Here, "onemirror setup"))
        }
    }
    for (hook, said) in &facts.failed_hooks {
        found.add(
            Check::Hooks,
            Level::Warning,
            format!("the last run of {hook} failed: {said}"),
            Advice::wait(format!(
                "reconcile does what it left undone; why it failed is told by onehook show {hook} and the audit log"
            )),
        );
    }
    let fix = || Advice::decide("systemctl status onemirror-reconcile.timer, or see to its line in cron");
    match facts.reconciled {
        Some(ago) if ago <= RECONCILE_LIMIT => {}
        Some(ago) => found.add(
            Check::Reconcile,
            Level::Failure,
            format!(
                "reconcile ended {} minutes ago for the last time; what hooks lose stays undone",
                ago.as_secs() / 60
            ),
            fix(),
        ),
        None => found.add(
            Check::Reconcile,
            Level::Failure,
            "reconcile has never run; what hooks lose stays undone",
            fix(),
        ),
    }
}

fn about_configuration(configuration: &Configuration, found: &mut Findings) {
    for wrong in &configuration.credentials {
        found.add(
            Check::Credentials,
            Level::Failure,
            wrong,
            Advice::decide("the file belongs to the front-end's user, mode 600, one line user:password"),
        );
    }
    if !is_private(&configuration.peer_endpoint) {
        found.add(
            Check::Encryption,
            Level::Warning,
            format!("passwords go to {} unencrypted", configuration.peer_endpoint),
            Advice::decide("put TLS before the other front-end's oned and write https:// into peer.endpoint"),
        );
    }
}

/// Whether nobody on the way can read along: TLS, or no way at all.
fn is_private(endpoint: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(endpoint) else { return true };
    let is_loopback = match url.host_str() {
        Some(host) => {
            let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        None => false,
    };
    url.scheme() == "https" || is_loopback
}

fn about_front_ends(facts: &Examined, found: &mut Findings, unknown: &mut BTreeSet<Check>) {
    let sides = [
        (Check::FrontEndHere, Some(&facts.front_end_here)),
        (Check::FrontEndThere, facts.front_end_there.as_ref()),
    ];
    for (check, front_end) in sides {
        match front_end {
            Some(Ok(front_end)) => about_front_end(check, front_end, found),
            Some(Err(why)) => {
                let key = if check == Check::FrontEndHere { "site" } else { "peer" };
                found.add(
                    check,
                    Level::Failure,
                    why,
                    Advice::decide(format!("see that oned runs there, and to {key}.endpoint and {key}.auth")),
                );
            }
            None => _ = unknown.insert(check),
        }
    }
    if facts.front_end_here.is_err() {
        unknown.extend([Check::Context, Check::Disks, Check::Parents, Check::Hooks]);
    }
    if facts.front_end_here.is_err() || !matches!(facts.front_end_there, Some(Ok(_))) {
        unknown.insert(Check::Names);
    }
    match facts.clock_difference {
        Some(seconds) if seconds.abs() > CLOCK_LIMIT => found.add(
            Check::Clock,
            Level::Warning,
            format!("the clock of the other front-end is {seconds} s ahead"),
            Advice::decide("have both synchronised (chronyc sources)"),
        ),
        Some(_) => {}
        None => _ = unknown.insert(Check::Clock),
    }
    if !matches!(facts.front_end_there, Some(Ok(_))) {
        unknown.insert(Check::Counterparts);
    }
}

fn about_front_end(check: Check, front_end: &ExaminedFrontEnd, found: &mut Findings) {
    if !is_known_version(&front_end.version) {
        found.add(
            check,
            Level::Warning,
            format!("OpenNebula {} was not looked at, only 6.10 to 7.4", front_end.version),
            Advice::decide("see on a test VM whether a terminate there and a resume here work"),
        );
    }
    if !front_end.sees_everything {
        found.add(
            check,
            Level::Failure,
            format!("{} does not see all VMs, images and datastores", front_end.user),
            Advice::decide(format!(
                "onegroup addadmin is not enough: oneuser addgroup {} oneadmin, or use oneadmin",
                front_end.user
            )),
        );
    }
    if check == Check::FrontEndHere && front_end.servers.len() > 1 {
        found.add(
            Check::Servers,
            Level::Advice,
            format!(
                "this front-end has several servers ({}): a leader without onemirror guards nothing; each has its own off switch, timer, and notes of when the other site was seen",
                front_end.servers.join(", ")
            ),
            Advice::decide("run onemirror doctor on each of them"),
        );
    }
}

/// Whether onemirror was tried with this version of OpenNebula.
pub fn is_known_version(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (KNOWN_VERSIONS.0..KNOWN_VERSIONS.1).contains(&(major, minor)),
        _ => false,
    }
}

fn about_pool(pool: &ExaminedPool, configuration: &Configuration, found: &mut Findings) {
    let name = &pool.name;
    let sides = [
        (&pool.here, Check::ClusterHere, Check::DaemonHere, &configuration.here, &configuration.there),
        (&pool.there, Check::ClusterThere, Check::DaemonThere, &configuration.there, &configuration.here),
    ];
    for (side, cluster, daemon, own, other) in sides {
        if let Some(trouble) =
            [side.mirroring.as_ref().err(), side.lock.as_ref().err(), side.images.as_ref().err()]
                .into_iter()
                .flatten()
                .next()
        {
            let place = if cluster == Check::ClusterHere { Place::Here } else { Place::There(own.clone()) };
            let (text, fix) = no_answer_in_words(name, side, own, place, trouble);
            found.add(cluster, Level::Failure, text, fix);
        }
        if !is_same_cluster(pool) {
            about_mirroring(name, side, own, other, found);
        }
        about_daemon(name, side, daemon, own, found);
        about_settings(side, own, found);
    }
    if is_same_cluster(pool) {
        found.add(
            Check::ClusterThere,
            Level::Failure,
            format!("[peer.ceph] leads to the cluster of {} itself, not to that of {}", configuration.here, configuration.there),
            Advice::decide(format!("put the configuration file of {}'s cluster, and a user of it, into [peer.ceph] of onemirror.conf", configuration.there)),
        );
    }
    for (image, report) in pool.here.images.iter().flat_map(|images| &images.reports) {
        about_copy(&format!("{name}/{image}"), report, &configuration.here, found);
    }
    for (image, report) in pool.there.images.iter().flat_map(|images| &images.reports) {
        about_copy(&format!("{name}/{image}"), report, &configuration.there, found);
    }
}

/// Whether what should be the other cluster is this one.
fn is_same_cluster(pool: &ExaminedPool) -> bool {
    let uuid = |side: &PoolOnCluster| side.mirroring.as_ref().ok()?.mirror_uuid.clone();
    uuid(&pool.here).is_some() && uuid(&pool.here) == uuid(&pool.there)
}

/// Why a cluster tells nothing of a pool, and what to do about it.
fn no_answer_in_words(
    name: &str,
    side: &PoolOnCluster,
    site: &str,
    place: Place,
    trouble: &NoAnswer,
) -> (String, Advice) {
    let user = &side.user;
    match trouble {
        NoAnswer::Permission(said) => (
            format!("{site}: {user} may not do all that is needed in pool {name}: {said}"),
            Advice::command(
                place,
                format!("ceph auth caps {user} mon 'profile rbd' mgr 'profile rbd' osd 'profile rbd'"),
            )
            .when("with the caps that it has for other things"),
        ),
        NoAnswer::Missing => (
            format!("{site} has no pool {name}: images are only mirrored between pools of one name"),
            Advice::commands(
                place,
                [format!("ceph osd pool create {name}"), format!("rbd pool init {name}")],
            ),
        ),
        NoAnswer::Full(fullness) => (
            format!(
                "pool {name} of {site} is full ({fullness}): no VM changes sites there, none that came back boots"
            ),
            fullness.advice(name, place),
        ),
        NoAnswer::Other(said) => {
            let see = "see to its monitors, and to conf and user in onemirror.conf";
            (format!("{site}: {said}"), Advice::decide(see))
        }
    }
}

/// Whether a peer may be the site of that name: where nobody has given a name, Ceph shows a number.
fn is_called(peer: &str, name: &str) -> bool {
    peer == name || is_fsid(peer)
}

fn about_mirroring(name: &str, side: &PoolOnCluster, own: &str, other: &str, found: &mut Findings) {
    let Ok(mirroring) = &side.mirroring else { return };
    let mut add =
        |text: String, fix: String| found.add(Check::Mirroring, Level::Failure, text, Advice::decide(fix));
    if !mirroring.enabled {
        return add(
            format!("pool {name} is not mirrored on {own}"),
            format!(
                "on {own}: rbd mirror pool enable {name} image --site-name {own}, then rbd mirror pool peer bootstrap"
            ),
        );
    }
    if let Some(found_name) = mirroring.site_name.as_deref().filter(|found| *found != own) {
        add(
            format!("the cluster that is configured as {own} calls itself {found_name} in pool {name}"),
            "correct site.name and peer.name in onemirror.conf, on both front-ends".into(),
        );
    }
    match &mirroring.peers[..] {
        [(peer, direction)] if is_called(peer, other) && direction == "rx-tx" => {}
        [(peer, direction)] if is_called(peer, other) => add(
            format!("pool {name} on {own} is mirrored in one direction only ({direction})"),
            format!(
                "on {own}: rbd mirror pool peer remove {name} UUID (rbd mirror pool info {name} names it), then rbd mirror pool peer bootstrap import --site-name {own} --direction rx-tx {name} TOKEN, with a token of {other}"
            ),
        ),
        [] => add(
            format!("pool {name} on {own} has no peer"),
            format!(
                "rbd mirror pool peer bootstrap import --site-name {own} --direction rx-tx {name} TOKEN, with a token of {other}"
            ),
        ),
        peers => {
            let names: Vec<&str> = peers.iter().map(|(peer, _)| peer.as_str()).collect();
            add(
                format!("the peers of pool {name} on {own} are {}, and not {other} alone", names.join(", ")),
                "correct peer.name in onemirror.conf, or remove the other peers".into(),
            );
        }
    }
}

fn about_daemon(name: &str, side: &PoolOnCluster, check: Check, site: &str, found: &mut Findings) {
    if side.images.as_ref().is_ok_and(|images| images.daemon == Daemon::Down) {
        found.add(
            check,
            Level::Failure,
            format!("no rbd-mirror serves pool {name} on {site}: its copies fall behind"),
            Advice::command(
                if check == Check::DaemonHere { Place::Here } else { Place::There(site.to_owned()) },
                "systemctl start ceph-rbd-mirror.target",
            ),
        );
    }
}

fn about_settings(side: &PoolOnCluster, site: &str, found: &mut Findings) {
    if side.poll_age.is_some_and(|age| age > POLL_AGE) {
        found.add(
            Check::PollInterval,
            Level::Advice,
            format!("a handoff in journal mode takes 7 to 15 s on {site} instead of 3, if its rbd-mirror has no settings of its own"),
            Advice::decide(format!(
                "on {site}: rbd config global set client rbd_mirror_journal_poll_age 1, the same for rbd_mirror_journal_commit_age, and 2 for rbd_mirror_image_state_check_interval"
            )),
        );
    }
}

/// One advice for all pools of a site.
fn about_delete_delays(pools: &[ExaminedPool], configuration: &Configuration, found: &mut Findings) {
    for is_here in [true, false] {
        let site = if is_here { &configuration.here } else { &configuration.there };
        let without: BTreeSet<&str> = pools
            .iter()
            .filter(|pool| if is_here { &pool.here } else { &pool.there }.delete_delay == Some(0))
            // a namespace has no setting of its own
            .map(|pool| pool.name.split('/').next().unwrap_or_default())
            .collect();
        if without.is_empty() {
            continue;
        }
        let commands =
            without.iter().map(|pool| format!("rbd config pool set {pool} rbd_mirroring_delete_delay 86400"));
        let place = if is_here { Place::Here } else { Place::There(site.clone()) };
        found.add(
            Check::DeleteDelay,
            Level::Advice,
            format!(
                "an image that is deleted at the other site is deleted on {site} at once, in: {}",
                without.iter().copied().collect::<Vec<_>>().join(", ")
            ),
            Advice::commands(place, commands).when("to keep it in the trash for a day"),
        );
    }
}

fn about_copy(image: &str, report: &ReplayState, site: &str, found: &mut Findings) {
    match report {
        ReplayState::SplitBrain => found.add(
            Check::SplitBrain,
            Level::Failure,
            format!("{image} on {site}: the copies went apart (split brain)"),
            Advice::wait("where the handoff's tokens tell which copy is newer, reconcile puts the other one right by itself; else onemirror plan of its VM tells what to type"),
        ),
        ReplayState::Error(said) => found.add(
            Check::Replication,
            Level::Failure,
            format!("{image} on {site} does not follow: {said}"),
            crate::protection::follow_again(image, site),
        ),
        _ => {}
    }
}

fn about_vm(vm: &ExaminedVm, facts: &Examined, found: &mut Findings) {
    let id = vm.id;
    if let Some(error) = &vm.error {
        found.add(
            Check::Disks,
            Level::Failure,
            error,
            Advice::wait(format!("until then VM {id} is refused")),
        );
    }
    if vm.disks.is_empty() {
        return;
    }
    let with: Vec<&ExaminedDisk> =
        vm.disks.iter().filter(|disk| is_mirrored(&disk.image, facts) == Some(true)).collect();
    if with.is_empty() {
        return; // nobody wants it to move
    }
    about_context(vm, found);
    for disk in with {
        about_disk(id, disk, facts, found);
    }
    about_counterparts(vm, facts, found);
}

/// What no disk of its can change.
fn about_context(vm: &ExaminedVm, found: &mut Findings) {
    let id = vm.id;
    if !vm.has_context {
        found.add(
            Check::Context,
            Level::Warning,
            format!("VM {id} has no CONTEXT section: nothing holds it when it is resumed from POWEROFF"),
            Advice::decide(format!("onevm updateconf {id}, with CONTEXT=[ NETWORK=\"YES\" ]")),
        );
    }
    if !vm.elsewhere.is_empty() {
        let disks: Vec<String> = vm.elsewhere.iter().map(ToString::to_string).collect();
        found.add(
            Check::Disks,
            Level::Warning,
            format!("VM {id}: disks not on Ceph stay here: {}", disks.join(", ")),
            Advice::decide("move them to a mirrored datastore"),
        );
    }
}

fn about_disk(id: i32, disk: &ExaminedDisk, facts: &Examined, found: &mut Findings) {
    if let Some(base) = disk.base.as_ref().filter(|base| is_mirrored(base, facts) == Some(false)) {
        let flat = format!("rbd flatten {}", disk.image);
        found.add(
            Check::Parents,
            Level::Failure,
            format!(
                "VM {id}: {} is a clone of {base}, which is not mirrored, so it is not copied",
                disk.image
            ),
            Advice::command(Place::Here, format!("rbd mirror image enable {base} snapshot"))
                .and(Advice::command(Place::Here, flat).when("or, for it to need no base any more")),
        );
    }
    if let Ok(configuration) = &facts.configuration
        && has_copy(&disk.image, facts) == Some(false)
    {
        found.add(
            Check::Replication,
            Level::Warning,
            format!("VM {id}: {} has no copy on {}", disk.image, configuration.there),
            Advice::wait("a new one comes within a minute; if not, the log of rbd-mirror there tells why (docs/runbook.md, \"resync does not end\")"),
        );
    }
}

/// The VMs of the other site that stand ready for it.
fn about_counterparts(vm: &ExaminedVm, facts: &Examined, found: &mut Findings) {
    let id = vm.id;
    let is_home = facts.configuration.as_ref().is_ok_and(|configuration| configuration.is_home);
    match vm.matches {
        Some(0) if is_home => found.add(
            Check::Counterparts,
            Level::Warning,
            format!("VM {id}: no VM of the other front-end uses its images; a failover would have to make one first"),
            Advice::decide("register its copies there and make a VM of them, on hold (docs/installation.md)"),
        ),
        Some(0) => found.add(
            Check::Counterparts,
            Level::Warning,
            format!("VM {id}: no VM of the other front-end uses its images, so none is resumed when it is terminated here"),
            Advice::decide("make a VM of them there"),
        ),
        Some(several) if several > 1 => found.add(
            Check::Counterparts,
            Level::Warning,
            format!("VM {id}: {several} VMs of the other front-end use its images, so none of them is resumed"),
            Advice::decide("terminate all but one"),
        ),
        _ => {}
    }
}

fn about_protection(concerns: &[Concern], found: &mut Findings) {
    for Concern { kind, vm, image, what, advice } in concerns {
        let (check, level) = match kind {
            // told of the copy that does not follow and of the daemon, above
            Kind::CopyInError | Kind::DaemonDown => continue,
            Kind::OlderImageThere | Kind::CloneBySnapshots => (Check::Protection, Level::Failure),
            Kind::NotMirrored => (Check::Disks, Level::Warning),
            Kind::NoSchedule | Kind::SnapshotsLate | Kind::OtherSize => (Check::Protection, Level::Warning),
        };
        let whose = vm.map(|vm| format!("VM {vm}: ")).unwrap_or_default();
        found.add(check, level, format!("{whose}{image} {what}"), advice.clone());
    }
}

/// Whether this site mirrors an image of that name; `None`: its pool did not answer.
fn is_mirrored(image: &ImageSpec, facts: &Examined) -> Option<bool> {
    let pool = facts.pools.iter().find(|pool| pool.name == image.pool_spec())?;
    Some(pool.here.images.as_ref().ok()?.reports.contains_key(image.image()))
}

/// Whether the other site mirrors an image of that name; `None`: its pool did not answer.
fn has_copy(image: &ImageSpec, facts: &Examined) -> Option<bool> {
    let pool = facts.pools.iter().find(|pool| pool.name == image.pool_spec())?;
    Some(pool.there.images.as_ref().ok()?.reports.contains_key(image.image()))
}

/// The exit status: 0 all is well, 1 there are warnings, 3 there are failures.
pub fn exit_status(findings: &[Diagnosis]) -> u8 {
    match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Failure) => 3,
        Some(Level::Warning) => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;

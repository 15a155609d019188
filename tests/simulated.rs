//! A whole run in a simulated world: the product below its command line, between two clusters and two front-ends that are the
//! model's, under a clock that goes on only when all wait. Nothing is real but the folder for its state.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod simulated {
    pub(crate) mod ceph;
    pub(crate) mod front_end;
    pub(crate) mod unasked;
    pub(crate) mod world;
}

use onemirror::config::Config;
use onemirror::operations::{GateOutcome, GateScope, boot};
use onemirror::sites::{Environment, RunError, Sites, images};
use onemirror_model::world::Vm;
use onemirror_protocol::{BootKind, Standing};
use simulated::world::{Shared, Sim, VM_HERE};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const CONFIG: &str = include_str!("fixtures/config/two-sites.conf");

/// The sites of site-a in that world; its state is kept in this folder.
fn sites(sim: &Shared, folder: &Path) -> Sites {
    let auth = folder.join("auth");
    std::fs::write(&auth, "oneadmin:secret").unwrap();
    std::fs::set_permissions(&auth, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text =
        CONFIG.replace("AUTH", auth.to_str().unwrap()).replace("ENDPOINT", "http://site-b.invalid:2633/RPC2");
    let config = Config::parse(&text, Path::new("onemirror.conf"));
    let environment = Environment {
        connector: sim.connector(),
        time: sim.time(),
        audit: sim.audit(),
        state_dir: folder.join("state"),
    };
    Sites::within(config.unwrap(), "simulated", environment).unwrap()
}

/// The VM of site-a boots, while the daemons of both sites do their work.
async fn boot(sim: &Shared) -> Result<GateOutcome, RunError> {
    let folder = tempfile::tempdir().unwrap();
    let sites = sites(sim, folder.path());
    let gate = async {
        let vm = images::vm_images(&sites, VM_HERE).await?;
        boot::gate(&sites, &vm, GateScope::All, BootKind::Cold, Standing::Last).await
    };
    tokio::select! {
        outcome = gate => outcome,
        () = sim.daemons() => unreachable!("they never end"),
    }
}

/// What is changed when the VM of site-a boots on what the VM of site-b has let go of.
const TAKE_OVER: [&str; 5] = [
    "site-b: onemirror.handoff",
    "site-b: demote",
    "site-a: promote",
    "site-a: onemirror.handoff",
    "site-a: onemirror.booted",
];

#[tokio::test(start_paused = true)]
async fn a_boot_takes_over_what_the_other_site_has_let_go_of() {
    let sim = Sim::let_go_of_by_site_b();
    let outcome = boot(&sim).await.unwrap();
    assert_eq!(outcome.mirrored, 1);
    assert_eq!(sim.changes(), TAKE_OVER);
    assert_eq!(sim.roles(), [true, false]);
    assert_eq!(sim.tokens()[0], "4:site-a:open");
    let noted: Vec<_> = sim.audited();
    assert_eq!(
        noted,
        ["close-token done", "demote done", "promote done", "open-token done", "mark-booted done"]
    );
    assert!(sim.locks_are_free());
    // and the VM has all that was ever written
    sim.with(|world| {
        world.vms[0] = Vm::Cleared;
        world.deploy(0);
        assert_eq!(world.violation, None);
        assert_eq!(world.images[0].copies[0].data, world.acknowledged[0]);
    });
}

#[tokio::test(start_paused = true)]
async fn the_same_world_goes_the_same_way() {
    let mut ways = Vec::new();
    for _ in 0..2 {
        let (sim, started) = (Sim::let_go_of_by_site_b(), Instant::now());
        boot(&sim).await.unwrap();
        ways.push((sim.calls(), started.elapsed()));
    }
    assert!(ways[0].0.len() > 30, "{:?}", ways[0]);
    assert_eq!(ways[0], ways[1]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_another_run_holds_is_waited_for() {
    let (sim, started) = (Sim::let_go_of_by_site_b(), Instant::now());
    let held = Duration::from_secs(25);
    sim.lock_elsewhere(1, held);
    boot(&sim).await.unwrap();
    assert!(started.elapsed() > held && started.elapsed() < held * 2, "{:?}", started.elapsed());
    assert_eq!(sim.changes(), TAKE_OVER);
    // one that outlasts the policy's sync_timeout is not
    let sim = Sim::let_go_of_by_site_b();
    sim.lock_elsewhere(1, Duration::from_secs(3600));
    let error = boot(&sim).await.unwrap_err();
    assert!(error.to_string().contains("is locked by another onemirror (process 77 of site-b)"), "{error}");
    assert_eq!((sim.changes().len(), sim.roles()), (0, [false, true]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_promoted_where_the_demotion_is_refused() {
    let sim = Sim::let_go_of_by_site_b();
    sim.refuse_demotion();
    let error = boot(&sim).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    assert_eq!(sim.changes(), TAKE_OVER[..1]);
    assert_eq!(sim.roles(), [false, true]);
    assert!(sim.locks_are_free());
    sim.with(|world| assert_eq!(world.violation, None));
}

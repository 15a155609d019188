//! Explores the handoff: a table of drills, or one with bounds from the command line.

use clap::{Args, Parser, Subcommand};
use comfy_table::{Table, presets};
use onemirror_model::mutation::Mutation;
use onemirror_model::promise::Promise;
use onemirror_model::storage::Mirroring::{Journal, Snapshot};
use onemirror_model::world::Budget;
use onemirror_model::{Drill, Outcome, drills, explore};
use std::process::ExitCode;

/// Explores onemirror's handoff in all interleavings within bounds. Exits 1 if a property does not hold, or if a table's
/// drill was not explored to its end.
#[derive(Parser)]
struct Arguments {
    /// Threads
    #[arg(long, global = true, default_value_t = 2)]
    threads: usize,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The drills that every test run explores
    Small,
    /// Larger ones: some minutes each
    Large {
        /// Only drills whose name holds this
        #[arg(default_value = "")]
        name: String,
    },
    /// One drill
    Explore(Bounds),
}

#[derive(Args)]
struct Bounds {
    /// One letter per disk: j (journal) or s (snapshot)
    #[arg(long, default_value = "j")]
    images: String,
    #[arg(long, default_value_t = 2)]
    boots: u8,
    #[arg(long, default_value_t = 1)]
    writes: u8,
    #[arg(long, default_value_t = 0)]
    suspends: u8,
    /// Runs of onemirror that are killed
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// Runs that sleep until their lock has expired
    #[arg(long, default_value_t = 0)]
    pauses: u8,
    /// Restarts of a front-end while its drivers are at work
    #[arg(long, default_value_t = 0)]
    restarts: u8,
    /// Demotions and promotions that are killed half-way (snapshot mode)
    #[arg(long, default_value_t = 0)]
    tears: u8,
    /// Breaks of the link between the sites
    #[arg(long, default_value_t = 0)]
    cuts: u8,
    /// Times that the cluster of home alone is cut off from the other site
    #[arg(long, default_value_t = 0)]
    cluster_cuts: u8,
    /// Times that the front-end of home alone is cut off from the other site
    #[arg(long, default_value_t = 0)]
    front_end_cuts: u8,
    /// Times that `onevm recover --recreate` is typed
    #[arg(long, default_value_t = 0)]
    recreates: u8,
    /// Times that a second VM gets the image
    #[arg(long, default_value_t = 0)]
    shares: u8,
    /// Times that the VM is terminated at home
    #[arg(long, default_value_t = 0)]
    home_ends: u8,
    /// The images belong to site-b
    #[arg(long)]
    home_on_b: bool,
    /// The images are clones, and bear the marks of another image
    #[arg(long)]
    clone: bool,
    /// Losses of the home site
    #[arg(long, default_value_t = 0)]
    losses: u8,
    #[arg(long, default_value_t = 0)]
    forces: u8,
    #[arg(long, default_value_t = 0)]
    hand_demotions: u8,
    #[arg(long, default_value_t = 0)]
    hand_resyncs: u8,
    #[arg(long, default_value_t = 0)]
    reconciles: u8,
    /// Hooks of POWEROFF that release
    #[arg(long, default_value_t = 0)]
    hooks: u8,
    /// Runs of onemirror at once
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Tokens on one image
    #[arg(long, default_value_t = 5)]
    tokens: u16,
    /// Leave the property out that every VM becomes bootable at home
    #[arg(long)]
    safety_only: bool,
    /// Stop after that many transitions
    #[arg(long)]
    limit: Option<usize>,
    /// Leave one rule out, by its name in the source
    #[arg(long)]
    without: Option<String>,
    /// Look at one property only, by its name in the source
    #[arg(long)]
    only: Option<String>,
}

fn promise(name: &str) -> Result<Promise, String> {
    let found = Promise::ALL.into_iter().find(|promise| format!("{promise:?}") == name);
    found.ok_or_else(|| format!("no property {name}; there are {:?}", Promise::ALL))
}

impl Bounds {
    fn drill(&self) -> Result<Drill, String> {
        let named = |name: &String| {
            let found = Mutation::ALL.into_iter().find(|mutation| format!("{mutation:?}") == *name);
            found.ok_or_else(|| format!("no rule {name}; there are {:?}", Mutation::ALL))
        };
        Ok(Drill {
            modes: self.images.chars().map(|c| if c == 's' { Snapshot } else { Journal }).collect(),
            home: usize::from(self.home_on_b),
            is_clone: self.clone,
            budget: Budget {
                cluster_cuts: self.cluster_cuts,
                front_end_cuts: self.front_end_cuts,
                recreates: self.recreates,
                shares: self.shares,
                home_ends: self.home_ends,
                boots: self.boots,
                writes: self.writes,
                suspends: self.suspends,
                crashes: self.crashes,
                pauses: self.pauses,
                restarts: self.restarts,
                tears: self.tears,
                cuts: self.cuts,
                losses: self.losses,
                forces: self.forces,
                hand_demotions: self.hand_demotions,
                hand_resyncs: self.hand_resyncs,
                reconciles: self.reconciles,
                hooks: self.hooks,
            },
            at_once: self.at_once,
            tokens: self.tokens,
            liveness: !self.safety_only,
            only: self.only.as_ref().map_or(Ok(None), |name| promise(name).map(Some))?,
            mutation: self.without.as_ref().map_or(Ok(Mutation::None), named)?,
        })
    }
}

fn verdict(outcome: &Outcome) -> String {
    match &outcome.found {
        Some((promise, _)) => format!("violated: {}", promise.name()),
        None if outcome.exhaustive => "holds".into(),
        None => "not explored to its end".into(),
    }
}

fn print_path(outcome: &Outcome) {
    if let Some((promise, path)) = &outcome.found {
        println!("violated: {}", promise.name());
        for step in path {
            println!("  {step}");
        }
    }
}

fn table(drills: Vec<drills::Named>, threads: usize) -> bool {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["DRILL", "STATES", "TRANSITIONS", "DEPTH", "SECONDS", ""]);
    let mut good = true;
    for (name, drill) in drills {
        eprintln!("{name}");
        let outcome = explore(&drill, threads, None);
        good &= outcome.exhaustive;
        table.add_row([
            name.to_owned(),
            outcome.states.to_string(),
            outcome.transitions.to_string(),
            outcome.depth.to_string(),
            outcome.took.as_secs().to_string(),
            verdict(&outcome),
        ]);
        print_path(&outcome);
    }
    println!("{table}");
    good
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let good = match &arguments.what {
        What::Small => table(drills::small(), arguments.threads),
        What::Large { name } => {
            let mut drills = drills::large();
            drills.retain(|(title, _)| title.contains(name));
            table(drills, arguments.threads)
        }
        What::Explore(bounds) => match bounds.drill() {
            Ok(drill) => {
                let outcome = explore(&drill, arguments.threads, bounds.limit);
                let Outcome { states, transitions, depth, took, .. } = &outcome;
                println!(
                    "{states} states, {transitions} transitions, depth {depth}, {took:.1?}: {}",
                    verdict(&outcome)
                );
                print_path(&outcome);
                outcome.found.is_none()
            }
            Err(error) => {
                eprintln!("{error}");
                false
            }
        },
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

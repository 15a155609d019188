//! Explores the handoff with bounds from the command line.

use clap::Parser;
use onemirror_model::mutation::Mutation;
use onemirror_model::storage::Mirroring::{Journal, Snapshot};
use onemirror_model::world::Budget;
use onemirror_model::{Drill, explore};

/// Explores onemirror's handoff.
#[derive(Parser)]
struct Arguments {
    /// Images: j and s
    #[arg(long, default_value = "j")]
    images: String,
    #[arg(long, default_value_t = 3)]
    boots: u8,
    #[arg(long, default_value_t = 2)]
    writes: u8,
    #[arg(long, default_value_t = 0)]
    suspends: u8,
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    #[arg(long, default_value_t = 0)]
    pauses: u8,
    #[arg(long, default_value_t = 0)]
    cuts: u8,
    #[arg(long, default_value_t = 0)]
    losses: u8,
    #[arg(long, default_value_t = 0)]
    forces: u8,
    #[arg(long, default_value_t = 0)]
    hand: u8,
    #[arg(long, default_value_t = 0)]
    reconciles: u8,
    #[arg(long, default_value_t = 0)]
    hooks: u8,
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    #[arg(long, default_value_t = 5)]
    tokens: u16,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long)]
    limit: Option<usize>,
    #[arg(long)]
    safety_only: bool,
    #[arg(long)]
    mutation: Option<usize>,
}

fn main() {
    let arguments = Arguments::parse();
    let drill = Drill {
        modes: arguments.images.chars().map(|c| if c == 's' { Snapshot } else { Journal }).collect(),
        budget: Budget {
            boots: arguments.boots,
            writes: arguments.writes,
            suspends: arguments.suspends,
            crashes: arguments.crashes,
            pauses: arguments.pauses,
            cuts: arguments.cuts,
            losses: arguments.losses,
            forces: arguments.forces,
            hand_demotions: arguments.hand,
            reconciles: arguments.reconciles,
            hooks: arguments.hooks,
        },
        at_once: arguments.at_once,
        tokens: arguments.tokens,
        liveness: !arguments.safety_only,
        mutation: arguments.mutation.map_or(Mutation::None, |index| Mutation::ALL[index]),
    };
    let outcome = explore(&drill, arguments.threads, arguments.limit);
    println!(
        "{} states, {} transitions, depth {}, {:?}, exhaustive {}",
        outcome.states, outcome.transitions, outcome.depth, outcome.took, outcome.exhaustive
    );
    if let Some((property, path)) = outcome.found {
        println!("{property}");
        for step in path {
            println!("  {step}");
        }
    }
}

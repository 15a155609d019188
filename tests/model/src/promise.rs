//! What must hold in every state.

use crate::Drill;
use crate::settle::{Stuck, is_at_rest};
use crate::world::{Violation, World};
use onemirror_protocol::Rule;
use stateright::Property;

/// A property that is looked at in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// No copy is promoted, or booted on, that lacks a write.
    Complete,
    /// What was written is somewhere, if only set aside.
    Kept,
    /// No two VMs write.
    OneWriter,
    /// VMs run on primary copies, and those stay primary under them.
    Primary,
    /// One copy at least is there.
    There,
    /// Saved memory fits its disk.
    Memory,
    /// VMs come home.
    Home,
    /// What is at home stays there.
    Stays,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Complete,
        Self::Kept,
        Self::OneWriter,
        Self::Primary,
        Self::There,
        Self::Memory,
        Self::Home,
        Self::Stays,
    ];

    /// What it says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "no acknowledged write is missing after a promotion",
            Self::Kept => "every acknowledged write is kept somewhere",
            Self::OneWriter => "never two running VMs with a writable copy",
            Self::Primary => "no boot on a non-primary copy",
            Self::There => "no image vanishes from both sites",
            Self::Memory => "no saved memory on a changed disk",
            Self::Home => "what is let go of becomes bootable at home",
            Self::Stays => "home gives away nothing that belongs there",
        }
    }

    /// Whether this is what it forbids.
    pub fn forbids(self, violation: Violation) -> bool {
        let broken = match violation {
            Violation::LostWrite | Violation::BootOnStale => Self::Complete,
            Violation::TwoWriters
            | Violation::TwoPrimaries
            | Violation::SecondCopyAfterReturn
            | Violation::ForcedPastUser => Self::OneWriter,
            Violation::BootOnNonPrimary | Violation::PulledAway => Self::Primary,
            Violation::Vanished => Self::There,
            Violation::MemoryOnChangedDisk => Self::Memory,
            Violation::GivenAway => Self::Stays,
        };
        self == broken
    }

    fn holds(self, drill: &Drill, world: &World) -> bool {
        let mut images = world.images.iter().zip(&world.acknowledged);
        let broken = match self {
            Self::Complete | Self::OneWriter | Self::Primary | Self::Memory | Self::Stays => false,
            Self::Kept => !world.by_hand && !images.all(|(image, writes)| image.has_kept(*writes)),
            Self::There => !images.all(|(image, _)| image.copies.iter().any(|copy| copy.exists)),
            Self::Home => {
                let stuck = (drill.liveness && is_at_rest(world)).then(|| drill.stuck(world)).flatten();
                stuck.is_some_and(|stuck| !is_for_the_operator(world, stuck))
            }
        };
        !broken && !world.violation.is_some_and(|violation| self.forbids(violation))
    }

    /// As it is looked at in every state.
    pub fn property(self) -> Property<Drill> {
        let condition: fn(&Drill, &World) -> bool = match self {
            Self::Complete => |drill, world| Self::Complete.holds(drill, world),
            Self::Kept => |drill, world| Self::Kept.holds(drill, world),
            Self::OneWriter => |drill, world| Self::OneWriter.holds(drill, world),
            Self::Primary => |drill, world| Self::Primary.holds(drill, world),
            Self::There => |drill, world| Self::There.holds(drill, world),
            Self::Memory => |drill, world| Self::Memory.holds(drill, world),
            Self::Home => |drill, world| Self::Home.holds(drill, world),
            Self::Stays => |drill, world| Self::Stays.holds(drill, world),
        };
        Property::always(self.name(), condition)
    }
}

/// What an operator's own doing may end in: a refusal that says what to do, and nothing lost.
fn is_for_the_operator(world: &World, stuck: Stuck) -> bool {
    match stuck {
        // demoted by hand while the other copy was made anew: one copy is left, and only an operator can know that
        Stuck::Refused(Rule::NonPrimaryWithoutOtherCopy | Rule::NotCopied) => world.by_hand,
        // the command was killed in the promotion, or between that and its token; it is to be repeated
        Stuck::Refused(Rule::SplitBrainUndecided | Rule::HandoffSnapshotIncomplete) => {
            world.forced && !world.force_completed
        }
        // forced upon a copy that its daemon was asked to throw away
        Stuck::Refused(Rule::ResyncAskedThere) => world.forced,
        _ => false,
    }
}

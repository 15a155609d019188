//! The state that is explored: two sites with a VM each, their common images, the runs of onemirror that are under
//! way, and what may still go wrong.

use crate::process::Process;
use crate::storage::{Image, Metadata, Mirroring, Site};

/// As many runs of onemirror may be under way at once.
pub const PROCESSES: usize = 3;
/// As many images has the VM at most.
pub const IMAGES: usize = 2;

/// The VM of a site, as its front-end shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vm {
    /// POWEROFF, or terminated, to be instantiated again: it uses no disk.
    Off,
    /// ACTIVE before its gate has answered.
    Booting,
    /// Its gate has let it pass; the stock driver and the hypervisor are at work.
    Cleared,
    /// RUNNING.
    Running,
    /// EPILOG: the domain is gone, the images are released.
    LettingGo,
    /// `recover --recreate`, PENDING: OpenNebula starts it again by itself.
    Pending,
    /// SUSPENDED: its memory is saved.
    Saved,
    /// ACTIVE with saved memory before its gate has answered.
    Restoring,
    /// The same after its gate.
    RestoreCleared,
}

impl Vm {
    /// Whether its domain may use the disks, or its memory belongs to them.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Off | Self::LettingGo)
    }

    /// Whether its domain may have the disks open, or is about to.
    pub fn uses_disks(self) -> bool {
        matches!(self, Self::Running | Self::Cleared | Self::RestoreCleared)
    }
}

/// Who has the lock of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Nobody.
    #[default]
    Free,
    /// The run in this place.
    Held(u8),
    /// A run of that site that was killed. Others of the site see that; the other site waits until it expires.
    Orphaned(Site),
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A user starts a VM.
    pub boots: u8,
    /// A running VM writes.
    pub writes: u8,
    /// A user suspends a VM.
    pub suspends: u8,
    /// A run of onemirror is killed.
    pub crashes: u8,
    /// A process is paused for so long that its locks expire.
    pub pauses: u8,
    /// `rbd` is killed in the middle of a demotion or promotion in snapshot mode, by its deadline.
    pub tears: u8,
    /// A front-end is restarted, and nobody hears the end of what its drivers had begun.
    pub restarts: u8,
    /// The link between the sites breaks.
    pub cuts: u8,
    /// The cluster of home is cut off from the other site, its front-end answers.
    pub cluster_cuts: u8,
    /// The front-end of home is cut off from the other site, its cluster answers.
    pub front_end_cuts: u8,
    /// An operator types `onevm recover --recreate`.
    pub recreates: u8,
    /// A second VM of the site gets the image.
    pub shares: u8,
    /// The VM is terminated at home.
    pub home_ends: u8,
    /// Home loses its power.
    pub losses: u8,
    /// An operator types `onemirror failover --force`.
    pub forces: u8,
    /// An operator demotes an image by hand.
    pub hand_demotions: u8,
    /// An operator asks by hand for a resync of a copy that is not primary, of one that is.
    pub hand_resyncs: u8,
    /// `onemirror reconcile` or a hook that does its work.
    pub reconciles: u8,
    /// A hook of POWEROFF releases the images.
    pub hooks: u8,
}

/// How much of the other site is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Link {
    /// All of it.
    #[default]
    Whole,
    /// Nothing, in neither direction.
    Broken,
    /// Home's front-end alone: its cluster is cut off from the other site.
    ClusterSilent,
    /// Home's cluster alone.
    FrontEndSilent,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A copy was promoted without force that lacks a write acknowledged before the demotion.
    LostWrite,
    /// Two VMs run, each on a writable copy, and nobody forced it.
    TwoWriters,
    /// A site that came back started the second copy beside a forced failover.
    SecondCopyAfterReturn,
    /// A VM was booted on a copy that is not primary.
    BootOnNonPrimary,
    /// A VM was booted on a copy that lacks a write, and nobody forced it.
    BootOnStale,
    /// An image was demoted under a VM that runs, or given up though its VM was seen to be about to be started again.
    PulledAway,
    /// Home gave an image up that belongs there.
    GivenAway,
    /// An image was forced though the front-end there had told of a VM that may be using it.
    ForcedPastUser,
    /// Both copies became primary, and nobody forced it.
    TwoPrimaries,
    /// A terminate deleted an image that the other site needs.
    Vanished,
    /// Saved memory was loaded on a disk that had changed.
    MemoryOnChangedDisk,
}

/// One moment of both sites.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Where the images belong.
    pub home: Site,
    /// They are clones of images that are mirrored, too.
    pub is_clone: bool,
    /// The VM of each site.
    pub vms: [Vm; 2],
    /// A second VM of the site runs on the images, too.
    pub shared: [bool; 2],
    /// What the disks held when the VM was suspended.
    pub saved: [[u8; IMAGES]; 2],
    /// The images.
    pub images: Vec<Image>,
    /// The lock of each copy.
    pub locks: [[Lock; 2]; IMAGES],
    /// The writes that must not be lost: those of the line that no force has cut off.
    pub owed: [u8; IMAGES],
    /// Every write that a VM was told is done.
    pub acknowledged: [u8; IMAGES],
    /// The site that wrote the image last, or took it over by force.
    pub line: [Site; IMAGES],
    /// The runs of onemirror.
    pub processes: [Option<Process>; PROCESSES],
    /// How much of the other site is reached.
    pub link: Link,
    /// Home is down.
    pub home_lost: bool,
    /// Home was down while an operator forced the VM over.
    pub home_returned: bool,
    /// The front-end of the site has seen the other copy since its host was booted, and it agreed.
    pub in_touch: [[bool; 2]; IMAGES],
    /// What may still happen.
    pub budget: Budget,
    /// Writes and closed tokens so far, each with its own number.
    pub written: u8,
    /// Closed tokens so far.
    pub closed: u8,
    /// An operator forced something.
    pub forced: bool,
    /// The site that an operator forced an image to.
    pub forced_to: [bool; 2],
    /// A gate has let a VM boot on the recovery site since an operator forced something.
    pub followed: bool,
    /// The command has come to its end.
    pub force_completed: bool,
    /// An operator's force has demoted the copy under the VM of this site, which nobody could ask about.
    pub cut_off: [bool; 2],
    /// An operator demoted something, or threw a copy away, by hand.
    pub by_hand: bool,
    /// What went wrong, first.
    pub violation: Option<Violation>,
}

impl World {
    /// Both sites in good order, the VM off, as many images as there are modes. `is_clone`: `rbd clone` has given them the
    /// marks of another image.
    pub fn new(modes: &[Mirroring], home: Site, is_clone: bool, budget: Budget) -> Self {
        let own = Metadata { home: Some(home), ..Metadata::default() };
        let metadata = if is_clone { Metadata::of_another(home) } else { own };
        Self {
            home,
            is_clone,
            vms: [Vm::Off; 2],
            shared: [false; 2],
            saved: [[0; IMAGES]; 2],
            images: modes.iter().map(|mode| Image::new(*mode, home, metadata)).collect(),
            locks: [[Lock::Free; 2]; IMAGES],
            owed: [0; IMAGES],
            acknowledged: [0; IMAGES],
            line: [home; IMAGES],
            processes: [const { None }; PROCESSES],
            link: Link::Whole,
            home_lost: false,
            home_returned: false,
            in_touch: [[true; 2]; IMAGES],
            budget,
            written: 0,
            closed: 0,
            forced: false,
            forced_to: [false; 2],
            followed: false,
            force_completed: false,
            cut_off: [false; 2],
            by_hand: false,
            violation: None,
        }
    }

    /// Whether `site` reaches the other one's cluster.
    pub fn reaches_cluster(&self, site: Site) -> bool {
        let cut_off = self.link == Link::Broken || self.link == Link::ClusterSilent && site != self.home;
        !cut_off && !self.home_lost
    }

    /// Whether `site` reaches the other one's front-end.
    pub fn reaches_front_end(&self, site: Site) -> bool {
        let cut_off = self.link == Link::Broken || self.link == Link::FrontEndSilent && site != self.home;
        !cut_off && !self.home_lost
    }

    /// Whether the daemons reach both clusters.
    pub fn replicates(&self) -> bool {
        [0, 1].into_iter().all(|site| self.reaches_cluster(site))
    }

    /// Whether anything happens on `site` at all.
    pub fn is_up(&self, site: Site) -> bool {
        !(self.home_lost && site == self.home)
    }

    /// Whether a domain of the site has the disks open, or is about to.
    pub fn uses_disks(&self, site: Site) -> bool {
        self.vms[site].uses_disks() || self.shared[site]
    }

    /// Notes the first thing that went wrong.
    pub fn note(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// `rbd mirror image promote` by onemirror or, with force, by an operator.
    pub fn promote(&mut self, image: usize, site: Site, force: bool) -> bool {
        if !self.images[image].promote(site, force) {
            return false;
        }
        let copies = self.images[image].copies;
        if force {
            // nothing is given up before somebody holds the image there: the command may have been killed, and never be repeated
            self.forced = true;
            self.forced_to[site] = true;
        } else {
            if self.owed[image] & !copies[site].data != 0 {
                self.note(Violation::LostWrite);
            }
            self.line[image] = site;
        }
        if !self.forced && copies.iter().all(|copy| copy.exists && copy.primary) {
            self.note(Violation::TwoPrimaries);
        }
        true
    }

    /// From here on what `site` has is what counts: an operator said so.
    pub fn take_line(&mut self, image: usize, site: Site) {
        self.forced = true;
        self.line[image] = site;
        self.owed[image] = self.images[image].copies[site].data;
    }

    /// A write of the running VM to all of its disks.
    pub fn write(&mut self, site: Site) {
        let bit = 1 << self.written;
        self.written += 1;
        for image in 0..self.images.len() {
            if self.images[image].write(site, bit) {
                self.acknowledged[image] |= bit;
                if self.line[image] == site {
                    self.owed[image] |= bit;
                }
            }
        }
    }

    /// The domain starts.
    pub fn deploy(&mut self, site: Site) {
        let restored = self.vms[site] == Vm::RestoreCleared;
        for image in 0..self.images.len() {
            let copies = self.images[image].copies;
            let (here, there) = (copies[site], copies[1 - site]);
            if self.cut_off[site] && !here.is_writable() {
                // it can read what it likes and change nothing
                continue;
            }
            if !here.is_writable() {
                self.note(Violation::BootOnNonPrimary);
            }
            if !self.forced && self.owed[image] & !here.data != 0 {
                self.note(Violation::BootOnStale);
            }
            if restored && here.data != self.saved[site][image] {
                self.note(Violation::MemoryOnChangedDisk);
            }
            let runs_there = self.vms[1 - site] == Vm::Running || self.shared[1 - site];
            if runs_there && there.exists && there.primary {
                // one that boots there while an operator forces it here is at his risk
                if !self.forced {
                    self.note(Violation::TwoWriters);
                } else if site == self.home && self.home_returned {
                    self.note(Violation::SecondCopyAfterReturn);
                }
            }
        }
        self.vms[site] = Vm::Running;
    }
}

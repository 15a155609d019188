//! A mirrored image as Ceph has it: two copies, what each has done and the other has not yet heard of, and the
//! orphan check of `rbd mirror image promote`, which believes what its own copy knows (seen on Ceph 16 to 20).

/// One of the two sites: 0 is home, 1 the recovery site.
pub type Site = usize;

/// The other site.
pub fn other(site: Site) -> Site {
    1 - site
}

/// How an image is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mirroring {
    /// Every change is replayed, in order.
    Journal,
    /// Mirror snapshots are copied, in order; metadata is read live when one is.
    Snapshot,
}

/// A handoff token. `closed` is 0 in an open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// Its sequence.
    pub sequence: u16,
    /// The site that wrote it.
    pub site: Site,
    /// The id of a closed token, 0 in an open one.
    pub closed: u8,
}

/// A mark of one token; the VM is the site's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// The token's sequence.
    pub sequence: u16,
    /// The token's site.
    pub site: Site,
    /// The site whose VM it speaks of.
    pub vm: Site,
}

/// The image metadata that onemirror writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// `onemirror.handoff`.
    pub token: Option<Token>,
    /// `onemirror.booted`.
    pub booted: Option<Mark>,
    /// `onemirror.release`.
    pub release: Option<Mark>,
    /// `onemirror.forced`.
    pub forced: Option<Mark>,
    /// `onemirror.home`.
    pub home: Option<Site>,
}

/// The sequence of every mark that `rbd clone` brings along from another image. No run counts that far.
pub const OF_ANOTHER: u16 = 9000;

impl Metadata {
    /// The marks of another image: its VM was failed over by force to the site where the clone was made, and lets go of it.
    pub fn of_another(site: Site) -> Self {
        let mark = Mark { sequence: OF_ANOTHER, site, vm: site };
        let token = Token { sequence: OF_ANOTHER, site, closed: 0 };
        Self { token: Some(token), booted: Some(mark), release: Some(mark), forced: Some(mark), home: None }
    }
}

/// Something that a copy did as a primary. Data is a set of numbered writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Write(u8),
    Metadata(Metadata),
    Promote { by: Site, data: u8 },
    Demote { data: u8 },
    Snapshot { data: u8 },
}

/// Who was promoted last, and whether it was demoted since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Term {
    by: Site,
    demoted: bool,
}

/// What onemirror noted about a resync that it asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Note {
    /// Nothing.
    #[default]
    None,
    /// It is about to ask; whether that meets this copy or the next is not known.
    AboutToAsk,
    /// It asked, and met this very copy, by its id; void once the copy is another one.
    Asked,
}

/// One copy as `rbd info` and `rbd image-meta list` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// A resync deletes the copy for a while.
    pub exists: bool,
    /// The role.
    pub primary: bool,
    /// It is called primary and takes no write: a demotion or promotion of it was killed half-way (snapshot mode; seen
    /// on Ceph 16.2).
    pub torn: bool,
    /// The writes that can be read.
    pub data: u8,
    /// The metadata that can be read.
    pub metadata: Metadata,
    /// A resync was asked for: the daemon will throw this copy away.
    pub resync: bool,
    /// What onemirror noted about that.
    pub noted: Note,
    /// It is about to be set aside: it bears the name under which it is kept, and is mirrored still.
    pub renamed: bool,
}

/// An image with its two copies. What both have in common is forgotten, so `news` of both sites at once are a
/// split brain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    mode: Mirroring,
    /// The copies.
    pub copies: [Copy; 2],
    news: [Vec<Entry>; 2],
    base: Term,
    /// What the newest common snapshot holds.
    base_data: u8,
    /// The writes that copies hold which were set aside.
    pub kept: u8,
}

impl Copy {
    /// Whether it is to be found under the name of its image.
    pub fn is_named(&self) -> bool {
        self.exists && !self.renamed
    }

    /// Whether it takes writes.
    pub fn is_writable(&self) -> bool {
        self.is_named() && self.primary && !self.torn
    }
}

impl Image {
    /// An image that was made at home and has been copied, with this metadata.
    pub fn new(mode: Mirroring, home: Site, metadata: Metadata) -> Self {
        let copy = Copy {
            exists: true,
            primary: false,
            torn: false,
            data: 0,
            metadata,
            resync: false,
            noted: Note::None,
            renamed: false,
        };
        let mut copies = [copy; 2];
        copies[home].primary = true;
        Self {
            mode,
            copies,
            news: [Vec::new(), Vec::new()],
            base: Term { by: home, demoted: false },
            base_data: 0,
            kept: 0,
        }
    }

    /// How it is mirrored.
    pub fn mode(&self) -> Mirroring {
        self.mode
    }

    /// The copy of `site` as who asks for the image by its name sees it.
    pub fn seen(&self, site: Site) -> Copy {
        let copy = self.copies[site];
        Copy { exists: copy.is_named(), ..copy }
    }

    /// Whether both copies have done something that the other does not know.
    pub fn is_split(&self) -> bool {
        self.news.iter().all(|news| !news.is_empty())
    }

    /// Whether the copy of `site` has all that the other has done.
    pub fn has_everything(&self, site: Site) -> bool {
        self.news[other(site)].is_empty()
    }

    /// Whether the newest thing that the copy of `site` knows is a demotion.
    pub fn ends_demoted(&self, site: Site) -> bool {
        self.term(site).demoted
    }

    fn term(&self, site: Site) -> Term {
        let mut term = self.base;
        for entry in &self.news[site] {
            match entry {
                Entry::Promote { by, .. } => term = Term { by: *by, demoted: false },
                Entry::Demote { .. } => term.demoted = true,
                Entry::Write(_) | Entry::Metadata(_) | Entry::Snapshot { .. } => {}
            }
        }
        term
    }

    fn append(&mut self, site: Site, entry: Entry) {
        // a copy that is not there cannot be behind; it is made from the whole
        let nobody_follows = !self.copies[other(site)].exists;
        match (self.mode, entry) {
            (Mirroring::Snapshot, Entry::Write(_) | Entry::Metadata(_)) => return,
            (Mirroring::Journal, Entry::Snapshot { .. }) => return,
            // a second snapshot of the same adds nothing: metadata is read live
            (Mirroring::Snapshot, Entry::Snapshot { .. }) if self.news[site].last() == Some(&entry) => return,
            _ => self.news[site].push(entry),
        }
        if nobody_follows {
            self.fold(site);
        }
    }

    /// Everything that `site` knows becomes common.
    fn fold(&mut self, site: Site) {
        self.base = self.term(site);
        for entry in std::mem::take(&mut self.news[site]) {
            if let Entry::Promote { data, .. } | Entry::Demote { data } | Entry::Snapshot { data } = entry {
                self.base_data = data;
            }
        }
        self.news[other(site)].clear();
    }

    /// A write of the VM; `false`: the image is read-only.
    pub fn write(&mut self, site: Site, bit: u8) -> bool {
        let copy = &mut self.copies[site];
        if !copy.is_writable() {
            return false;
        }
        copy.data |= bit;
        self.append(site, Entry::Write(bit));
        true
    }

    /// `rbd image-meta set`; `false`: the image is read-only.
    pub fn set_metadata(&mut self, site: Site, change: impl FnOnce(&mut Metadata)) -> bool {
        let copy = &mut self.copies[site];
        if !copy.is_writable() {
            return false;
        }
        change(&mut copy.metadata);
        let metadata = copy.metadata;
        self.append(site, Entry::Metadata(metadata));
        true
    }

    /// `rbd mirror image snapshot`.
    pub fn snapshot(&mut self, site: Site) -> bool {
        let copy = self.copies[site];
        if !copy.is_writable() {
            return false;
        }
        self.append(site, Entry::Snapshot { data: copy.data });
        true
    }

    /// `rbd mirror image demote`.
    pub fn demote(&mut self, site: Site) -> bool {
        let copy = self.copies[site];
        if !copy.is_named() || !copy.primary {
            return false;
        }
        self.copies[site].primary = false;
        self.copies[site].torn = false;
        self.append(site, Entry::Demote { data: copy.data });
        true
    }

    /// `rbd mirror image promote`: without force it looks at what this copy knows, and at nothing else.
    pub fn promote(&mut self, site: Site, force: bool) -> bool {
        let copy = self.copies[site];
        if !copy.is_named() || copy.primary || !(force || self.ends_demoted(site)) {
            return false;
        }
        self.copies[site].primary = true;
        self.append(site, Entry::Promote { by: site, data: copy.data });
        true
    }

    /// A demotion or a promotion of the copy is killed half-way: `rbd` makes the image read-only first and takes the
    /// snapshot that demotes it after that, and promotes it the other way round.
    pub fn tear(&mut self, site: Site) {
        self.copies[site].torn = true;
    }

    /// `rbd mirror image resync`.
    pub fn request_resync(&mut self, site: Site) -> bool {
        let copy = &mut self.copies[site];
        if !copy.is_named() || copy.primary {
            return false;
        }
        copy.resync = true;
        true
    }

    /// Notes what is known of a resync. After the request that is what Ceph says of the copy that is there then.
    pub fn note_resync(&mut self, site: Site, note: Note) {
        let copy = &mut self.copies[site];
        let met_before = note == Note::Asked && !(copy.exists && copy.resync);
        copy.noted = if met_before { Note::None } else { note };
    }

    /// Whether the daemon of `site` can replay the next thing that the other copy did. It begins only while the
    /// other copy is primary; once it follows a primary it goes on until that is demoted.
    pub fn can_replay(&self, site: Site) -> bool {
        let (copy, source) = (self.copies[site], self.copies[other(site)]);
        let in_line = self.news[site].is_empty() && !self.news[other(site)].is_empty();
        let begun = self.base.by == other(site) && !self.base.demoted;
        copy.exists && source.exists && !copy.primary && in_line && (source.primary || begun)
    }

    /// The daemon replays one thing.
    pub fn replay(&mut self, site: Site) {
        let source = other(site);
        let entry = self.news[source].remove(0);
        let copied = self.copies[source].metadata;
        let copy = &mut self.copies[site];
        match entry {
            Entry::Write(bit) => copy.data |= bit,
            Entry::Metadata(metadata) => copy.metadata = metadata,
            Entry::Promote { by, .. } => self.base = Term { by, demoted: false },
            Entry::Demote { .. } => self.base.demoted = true,
            Entry::Snapshot { .. } => {}
        }
        if self.mode == Mirroring::Snapshot
            && let Entry::Promote { data, .. } | Entry::Demote { data } | Entry::Snapshot { data } = entry
        {
            copy.data = data;
            copy.metadata = copied;
            self.base_data = data;
        }
    }

    /// Whether the daemon of `site` would throw its copy away now. It does not look whether there is anything to
    /// copy from (ceph PR 63270).
    pub fn can_delete_for_resync(&self, site: Site) -> bool {
        let copy = self.copies[site];
        copy.exists && !copy.primary && copy.resync
    }

    /// The daemon throws its copy away.
    pub fn delete_for_resync(&mut self, site: Site) {
        let copy = &mut self.copies[site];
        copy.exists = false;
        copy.resync = false;
        if copy.noted == Note::Asked {
            copy.noted = Note::None;
        }
        // nothing of it is left to differ in
        self.fold(other(site));
    }

    /// The copy, which is to be set aside, gets another name. The mirroring goes by ids, and notices nothing.
    pub fn rename(&mut self, site: Site) -> bool {
        let copy = &mut self.copies[site];
        let renamed = copy.is_writable();
        copy.renamed |= renamed;
        renamed
    }

    /// The renamed copy is mirrored no more: kept, and to the mirroring as if it were gone. What is not primary goes away
    /// with it.
    pub fn stop_mirroring(&mut self, site: Site) -> bool {
        let [copy, peer] = [self.copies[site], self.copies[other(site)]];
        if !copy.exists || !copy.renamed {
            return false;
        }
        self.kept |= copy.data;
        self.copies[site].renamed = false;
        self.delete_for_resync(site);
        if !peer.primary {
            self.copies[other(site)].exists = false;
        }
        true
    }

    /// Whether every one of these writes is still somewhere.
    pub fn has_kept(&self, writes: u8) -> bool {
        let there =
            self.copies.iter().filter(|copy| copy.exists).fold(self.kept, |all, copy| all | copy.data);
        writes & !there == 0
    }

    /// Whether the daemon of `site` can copy the image as a whole.
    pub fn can_copy(&self, site: Site) -> bool {
        let source = self.copies[other(site)];
        !self.copies[site].exists && source.exists && source.primary
    }

    /// The daemon copies the image as a whole: to its newest mirror snapshot, or to where it is.
    pub fn copy(&mut self, site: Site) {
        let (source, noted) = (self.copies[other(site)], self.copies[site].noted);
        self.fold(other(site));
        let data = match self.mode {
            Mirroring::Journal => source.data,
            Mirroring::Snapshot => self.base_data,
        };
        self.copies[site] = Copy {
            exists: true,
            primary: false,
            torn: false,
            data,
            metadata: source.metadata,
            resync: false,
            noted,
            renamed: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay_all(image: &mut Image, site: Site) {
        while image.can_replay(site) {
            image.replay(site);
        }
    }

    /// The trap of the design: the newest thing that home knows is its own demotion.
    #[test]
    fn a_stale_copy_is_promoted_without_force() {
        for mode in [Mirroring::Journal, Mirroring::Snapshot] {
            let mut image = Image::new(mode, 0, Metadata::default());
            assert!(image.demote(0));
            replay_all(&mut image, 1);
            assert!(image.promote(1, false) && image.write(1, 1) && image.demote(1));
            assert!(image.promote(0, false), "{mode:?}: Ceph lets it");
            assert_eq!(image.copies[0].data, 0);
            assert!(image.is_split());
        }
    }

    #[test]
    fn a_daemon_that_follows_a_term_goes_on_to_its_end_and_no_other() {
        let mut image = Image::new(Mirroring::Journal, 0, Metadata::default());
        assert!(image.demote(0));
        assert!(!image.promote(1, false), "the demotion is not there yet");
        replay_all(&mut image, 1);
        assert!(image.promote(1, false));
        image.replay(0);
        assert!(image.write(1, 1) && image.demote(1));
        replay_all(&mut image, 0);
        assert_eq!((image.copies[0].data, image.ends_demoted(0)), (1, true));
        // stranded: this promotion and its demotion are never seen
        assert!(image.promote(1, false) && image.write(1, 2) && image.demote(1));
        assert!(!image.can_replay(0));
        assert!(image.promote(1, false));
        replay_all(&mut image, 0);
        assert_eq!(image.copies[0].data, 3);
    }

    /// Metadata is read when a snapshot is applied: a token may arrive before the data that was written before it.
    #[test]
    fn metadata_overtakes_data_in_snapshot_mode() {
        let mut image = Image::new(Mirroring::Snapshot, 0, Metadata::default());
        assert!(image.snapshot(0) && image.write(0, 1));
        let token = Token { sequence: 1, site: 0, closed: 1 };
        assert!(image.set_metadata(0, |metadata| metadata.token = Some(token)));
        image.replay(1);
        assert_eq!((image.copies[1].metadata.token, image.copies[1].data), (Some(token), 0));
    }

    #[test]
    fn a_resync_copies_everything_or_finds_nothing_to_copy() {
        let mut image = Image::new(Mirroring::Journal, 0, Metadata::default());
        assert!(image.promote(1, true) && image.write(1, 1) && image.write(0, 2));
        assert!(image.is_split() && !image.request_resync(0));
        assert!(image.demote(0) && image.request_resync(0) && image.can_delete_for_resync(0));
        image.delete_for_resync(0);
        assert!(image.can_copy(0));
        image.copy(0);
        assert_eq!((image.copies[0].data, image.is_split()), (1, false));
        assert!(image.demote(1) && image.request_resync(0));
        image.delete_for_resync(0);
        assert!(!image.can_copy(0));
    }
}

//! The snapshots of a disk or an image, as the documents tell of them.
//!
//! OpenNebula: src/vm/Snapshots.cc, with ALLOW_ORPHANS=mixed as `ceph` datastores have it (etc/oned.conf).

use serde::{Deserialize, Serialize};

use crate::xml::Element;

/// All snapshots of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    next: i64,
    /// The snapshot that was reverted to last; -1 for none.
    base: i64,
    /// The snapshot that is called active; -1 for none.
    active: i64,
    all: Vec<Snapshot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Snapshot {
    id: i64,
    name: String,
    date: i64,
    size: i64,
    parent: i64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { next: 0, base: -1, active: -1, all: vec![] }
    }
}

impl Snapshots {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds one (`create_snapshot`) and returns its number.
    pub fn create(&mut self, name: &str, size: i64, date: i64) -> i64 {
        let id = self.next;
        self.next += 1;
        self.all.push(Snapshot { id, name: name.to_owned(), date, size, parent: self.base });
        id
    }

    /// Whether that snapshot exists.
    pub fn has(&self, id: i64) -> bool {
        self.all.iter().any(|snapshot| snapshot.id == id)
    }

    /// The size that the disk had then, in megabytes.
    pub fn size(&self, id: i64) -> Option<i64> {
        self.all.iter().find(|snapshot| snapshot.id == id).map(|snapshot| snapshot.size)
    }

    /// The disk is that snapshot now (`active_snapshot`).
    pub fn revert(&mut self, id: i64) {
        if self.has(id) {
            (self.base, self.active) = (id, id);
        }
    }

    /// Why that snapshot cannot be dropped (`test_delete`, `test_delete_image`), if so.
    pub fn keeps(&self, id: i64) -> Option<&'static str> {
        if !self.has(id) {
            return Some("Snapshot does not exist");
        }
        if self.active == id {
            return Some("Cannot delete the active snapshot");
        }
        let has_children = self.all.iter().any(|snapshot| snapshot.parent == id);
        has_children.then_some("Cannot delete snapshot with children")
    }

    /// Drops one (`delete_snapshot`).
    pub fn delete(&mut self, id: i64) {
        self.all.retain(|snapshot| snapshot.id != id);
    }

    /// As it stands in a document; a VM's names the disk.
    pub fn element(&self, disk: Option<i64>) -> Element {
        let mut children = vec![
            Element::data("ALLOW_ORPHANS", "MIXED"),
            Element::data("CURRENT_BASE", self.base.to_string()),
        ];
        children.extend(disk.map(|disk| Element::data("DISK_ID", disk.to_string())));
        children.push(Element::data("NEXT_SNAPSHOT", self.next.to_string()));
        children.extend(self.all.iter().map(|snapshot| self.entry(snapshot)));
        Element::group("SNAPSHOTS", children)
    }

    fn entry(&self, snapshot: &Snapshot) -> Element {
        let mut children = vec![];
        if snapshot.id == self.active {
            children.push(Element::data("ACTIVE", "YES"));
        }
        let following: Vec<String> = self
            .all
            .iter()
            .filter(|other| other.parent == snapshot.id)
            .map(|other| other.id.to_string())
            .collect();
        if !following.is_empty() {
            children.push(Element::data("CHILDREN", following.join(",")));
        }
        children.extend([
            Element::data("DATE", snapshot.date.to_string()),
            Element::data("ID", snapshot.id.to_string()),
            Element::data("NAME", &*snapshot.name),
            Element::data("PARENT", snapshot.parent.to_string()),
            Element::data("SIZE", snapshot.size.to_string()),
        ]);
        Element::group("SNAPSHOT", children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_others_come_from_is_kept() {
        let mut snapshots = Snapshots::default();
        assert_eq!(snapshots.create("first", 16, 1), 0);
        assert_eq!(snapshots.create("second", 16, 2), 1);
        assert_eq!(
            (snapshots.keeps(0), snapshots.keeps(1), snapshots.keeps(7).is_some()),
            (None, None, true)
        );
        snapshots.revert(0);
        assert_eq!(snapshots.keeps(0), Some("Cannot delete the active snapshot"));
        assert_eq!(snapshots.create("third", 16, 3), 2);
        snapshots.revert(1);
        assert_eq!(snapshots.keeps(0), Some("Cannot delete snapshot with children"));
        let document = snapshots.element(Some(4)).compact();
        assert!(document.contains("<CHILDREN><![CDATA[2]]></CHILDREN>"), "{document}");
        assert_eq!(snapshots.size(1), Some(16));
        snapshots.delete(2);
        assert_eq!(snapshots.keeps(0), None);
        assert_eq!(snapshots.create("fourth", 16, 4), 3, "numbers are never used twice");
    }
}

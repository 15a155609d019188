//! What the front-end knows, kept in one file as oned keeps it in its database.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::snapshots::Snapshots;
use crate::states::{Action, HostState, ImageState, LcmState, VmState};
use crate::template::Template;

/// All objects; ids count up per kind and are never used twice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Records {
    /// VMs, also those that are DONE.
    pub machines: Pool<Machine>,
    /// Images.
    pub images: Pool<Image>,
    /// Datastores.
    pub datastores: Pool<Datastore>,
    /// Hosts.
    pub hosts: Pool<Host>,
    /// Hooks.
    pub hooks: Pool<Hook>,
    /// Number of the last call, for `HISTORY/REQUEST_ID`.
    pub requests: i64,
}

/// Objects of one kind by id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool<T> {
    next: i64,
    objects: BTreeMap<i64, T>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { next: 0, objects: BTreeMap::new() }
    }
}

impl<T> Pool<T> {
    /// Adds the object that `make` builds for its id.
    pub fn insert(&mut self, make: impl FnOnce(i64) -> T) -> i64 {
        let id = self.next;
        self.next += 1;
        self.objects.insert(id, make(id));
        id
    }

    /// The id the next object will get, at least `first`.
    pub fn begin_at(&mut self, first: i64) {
        self.next = self.next.max(first);
    }

    /// The id that the next object gets.
    pub fn next_id(&self) -> i64 {
        self.next
    }

    /// One object.
    pub fn get(&self, id: i64) -> Option<&T> {
        self.objects.get(&id)
    }

    /// One object, to change it.
    pub fn get_mut(&mut self, id: i64) -> Option<&mut T> {
        self.objects.get_mut(&id)
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: i64) -> Option<T> {
        self.objects.remove(&id)
    }

    /// Takes all objects out; their ids.
    pub fn clear(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.objects).into_keys().collect()
    }

    /// All objects, lowest id first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, &T)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    /// All objects, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.objects.values_mut()
    }
}

/// A VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct Machine {
    pub id: i64,
    pub name: String,
    pub state: VmState,
    pub lcm_state: LcmState,
    pub prev_state: VmState,
    pub prev_lcm_state: LcmState,
    pub last_poll: i64,
    pub stime: i64,
    pub etime: i64,
    pub deploy_id: String,
    pub template: Template,
    pub user_template: Template,
    pub history: Vec<History>,
    /// The snapshots of its disks, by DISK_ID.
    pub snapshots: BTreeMap<i64, Snapshots>,
    /// What is being done with its disks; oned notes that in marks of the DISK.
    pub operation: Option<Operation>,
}

/// Something that is done with a VM's disks while the VM waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are ids, and sizes in megabytes
pub enum Operation {
    Attach {
        disk: i64,
    },
    Detach {
        disk: i64,
    },
    SnapshotCreate {
        disk: i64,
        snapshot: i64,
    },
    SnapshotRevert {
        disk: i64,
        snapshot: i64,
    },
    SnapshotDelete {
        disk: i64,
        snapshot: i64,
    },
    Resize {
        disk: i64,
        before: i64,
    },
    SaveAs {
        disk: i64,
        snapshot: i64,
        image: i64,
    },
    Backup {
        datastore: i64,
    },
    Restore {
        image: i64,
        disk: i64,
    },
    /// To the host of the last history record.
    Migrate,
}

impl Machine {
    /// The state's name in messages: the LCM state of an ACTIVE VM, else the state.
    pub fn state_name(&self) -> &'static str {
        if self.state == VmState::Active { self.lcm_state.name() } else { self.state.name() }
    }

    /// Whether the state differs from the one last stored.
    pub fn has_changed_state(&self) -> bool {
        (self.state, self.lcm_state) != (self.prev_state, self.prev_lcm_state)
    }

    /// `OS/UUID`, empty if there is none.
    pub fn uuid(&self) -> &str {
        self.template.vectors("OS").next().and_then(|os| os.get("UUID")).unwrap_or_default()
    }

    /// Puts a reason where `onevm show` and Sunstone look for it, cut as oned cuts it.
    pub fn set_error(&mut self, message: &str, date: &str) {
        const LONGEST: usize = 100; // VirtualMachine::MAX_ERROR_MSG_LENGTH, in bytes
        let mut end = message.len().min(LONGEST);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let more = if message.len() >= LONGEST { "... see more details in VM log" } else { "" };
        self.user_template.set("ERROR", format!("{date}: {}{more}", &message[..end]));
    }
}

/// One stay of a VM on a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct History {
    pub seq: i64,
    pub hostname: String,
    pub host_id: i64,
    pub tm_mad: String,
    pub datastore_id: i64,
    pub stime: i64,
    pub etime: i64,
    pub pstime: i64,
    pub petime: i64,
    pub rstime: i64,
    pub retime: i64,
    pub estime: i64,
    pub eetime: i64,
    pub action: Action,
    pub uid: i64,
    pub gid: i64,
    pub request_id: i64,
}

impl History {
    /// Notes who asked for what.
    pub fn set_action(&mut self, action: Action, request_id: i64) {
        (self.action, self.uid, self.gid, self.request_id) = (action, 0, 0, request_id);
    }

    /// Notes what happened without anyone asking.
    pub fn set_internal_action(&mut self, action: Action) {
        (self.action, self.uid, self.gid, self.request_id) = (action, -1, -1, -1);
    }

    /// A new record that goes on where this one ends.
    pub fn successor(&self, seq: i64) -> Self {
        let mut next = Self {
            seq,
            stime: 0,
            etime: 0,
            pstime: 0,
            petime: 0,
            rstime: 0,
            retime: 0,
            estime: 0,
            eetime: 0,
            ..self.clone()
        };
        next.set_internal_action(Action::None);
        next
    }
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct Image {
    pub id: i64,
    pub name: String,
    pub kind: i64,
    pub disk_type: i64,
    pub persistent: bool,
    pub regtime: i64,
    pub modtime: i64,
    pub source: String,
    pub path: String,
    pub format: String,
    pub size: i64,
    pub state: ImageState,
    pub prev_state: ImageState,
    pub datastore_id: i64,
    pub vms: Vec<i64>,
    /// The image that this one is being copied from.
    pub cloning_id: Option<i64>,
    /// The images that are being copied from this one.
    pub clones: Vec<i64>,
    pub snapshots: Snapshots,
    /// The snapshot that a driver is at work on.
    pub target_snapshot: Option<i64>,
    pub template: Template,
}

impl Image {
    /// Makes an image usable that is locked or was in ERROR (`set_state_unlock` in src/image/Image.cc).
    pub fn unlock(&mut self) {
        let state = match (self.state, self.vms.is_empty(), self.persistent) {
            (ImageState::Locked, ..) | (ImageState::Error, true, _) => ImageState::Ready,
            (ImageState::LockedUsed, ..) | (ImageState::Error, false, false) => ImageState::Used,
            (ImageState::LockedUsedPers, ..) | (ImageState::Error, false, true) => ImageState::UsedPers,
            (other, ..) => other,
        };
        self.set_state(state);
    }

    /// Whether several VMs may use it at a time (`acquire_image` in src/image/ImageManagerActions.cc).
    pub fn is_shareable(&self) -> bool {
        let kind = self.template.get("PERSISTENT_TYPE").unwrap_or_default();
        self.persistent && self.format == "raw" && kind.eq_ignore_ascii_case("shareable")
    }

    /// Why something went wrong, uncut, as every object but a VM has it (src/pool/PoolObjectSQL.cc).
    pub fn set_error(&mut self, message: &str) {
        self.template.set("ERROR", format!("{} : {message}", crate::log::date()));
    }

    /// Sets the state, remembering the one before.
    pub fn set_state(&mut self, state: ImageState) {
        self.prev_state = state;
        self.state = state;
    }
}

/// A datastore; its attributes are all in the template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct Datastore {
    pub id: i64,
    pub name: String,
    pub template: Template,
}

impl Datastore {
    /// The transfer driver.
    pub fn tm_mad(&self) -> &str {
        self.template.get("TM_MAD").unwrap_or("-")
    }

    /// The number of its type.
    pub fn kind(&self) -> i64 {
        match self.template.get("TYPE") {
            Some("SYSTEM_DS") => 1,
            Some("FILE_DS") => 2,
            Some("BACKUP_DS") => 3,
            _ => 0,
        }
    }

    /// Whether VMs run on it.
    pub fn is_system(&self) -> bool {
        self.template.get("TYPE") == Some("SYSTEM_DS")
    }
}

/// A host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct Host {
    pub id: i64,
    pub name: String,
    pub state: HostState,
    pub prev_state: HostState,
    pub im_mad: String,
    pub vm_mad: String,
    pub monitored: i64,
}

/// A hook; its attributes are all in the template.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the members are those of OpenNebula's document
pub struct Hook {
    pub id: i64,
    pub name: String,
    pub kind: String,
    pub template: Template,
}

/// Reads the file; a missing one is an empty store. The error names the file.
pub fn load(path: &Path) -> Result<Records, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut records = Records::default();
            records.datastores.begin_at(100); // 0 to 99 are oned's own
            Ok(records)
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Writes the file whole or not at all; what was written survives a kill of this process.
pub fn save(path: &Path, records: &Records) -> Result<(), String> {
    let beside = path.with_extension("json.new");
    let bytes = serde_json::to_vec(records).map_err(|error| format!("{}: {error}", path.display()))?;
    std::fs::write(&beside, bytes)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_ids_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front-end.json");
        let mut records = load(&path).unwrap();
        let id = records.datastores.insert(|id| Datastore {
            id,
            name: "ceph".into(),
            template: Template::parse("TM_MAD = ceph").unwrap(),
        });
        assert_eq!(id, 100);
        records.datastores.remove(id);
        save(&path, &records).unwrap();
        assert_eq!(load(&path).unwrap().datastores.next_id(), 101);
        std::fs::write(&path, "{").unwrap();
        assert!(load(&path).unwrap_err().contains("front-end.json"));
    }
}

//! OpenNebula's documents: VMs, images, datastores, hosts and hooks, read from the XML that oned writes.
//!
//! All of them are read strictly (one complete element of the right name, no document type, bounded nesting)
//! and leniently (unknown elements are ignored). A pool with one unreadable member is unreadable as a whole:
//! to leave a VM out silently could mean to miss the one that runs.

use super::states::{DatastoreState, HostState, LcmState, VmState};
use super::xml::{self, XmlError};
use crate::text::excerpt;
use base64::Engine as _;
use onemirror_protocol::ImageSpec;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The largest document that is parsed, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// Why a document can't be used. Its text never quotes the document, which may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} document not understood: {detail}")]
pub struct DocumentError {
    kind: &'static str,
    detail: String,
}

impl DocumentError {
    fn new(kind: &'static str, detail: impl fmt::Display) -> Self {
        Self { kind, detail: excerpt(&detail.to_string()) }
    }

    fn xml(kind: &'static str, error: &XmlError) -> Self {
        Self::new(kind, error)
    }
}

/// A virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    /// Number within this front-end.
    pub id: i32,
    /// The user's name for it; not unique, not to be trusted.
    pub name: String,
    /// The owner.
    pub uid: i32,
    /// `STIME`: when it was made, in seconds since 1970.
    pub made: Option<i64>,
    /// `OS/UUID`, which oned draws by lot where a template names none.
    pub uuid: Option<String>,
    /// State.
    pub state: VmState,
    /// Life-cycle state, which counts while the VM is active.
    pub lcm_state: LcmState,
    /// Disks in the order of the document; CONTEXT is not among them.
    pub disks: Vec<Disk>,
    /// Whether it has a CONTEXT section. Without one no driver action precedes a resume from POWEROFF.
    pub has_context: bool,
    /// `DS_ID` of the newest history record; `None` before the first deployment.
    pub system_datastore: Option<i32>,
    /// `HOSTNAME` of the newest history record.
    pub host: Option<String>,
    /// `HID` of the newest history record.
    pub host_id: Option<i32>,
    /// `TM_MAD` of the newest history record: the driver of the system datastore.
    pub tm_mad: Option<String>,
    /// `USER_TEMPLATE/ERROR`, fit to be printed.
    pub user_error: Option<String>,
    /// The single-valued attributes of `USER_TEMPLATE`, as they are. Users can edit them.
    pub user_attributes: BTreeMap<String, String>,
}

impl Vm {
    /// Reads a `<VM>`, from `one.vm.info` or from what a hook got.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<VmXml>(text, "VM")?.into())
    }

    /// Reads a `<VM_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: VmPoolXml = read(text, "VM_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }

    /// The state in one word, as `onevm` knows it: that of the life cycle while active, else the state.
    pub fn state_name(&self) -> String {
        match self.state {
            VmState::Active => self.lcm_state.to_string(),
            state => state.to_string(),
        }
    }
}

/// A disk of a VM (`TEMPLATE/DISK`).
///
/// Users can edit parts of it: nothing here is a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// `DISK_ID`.
    pub id: i32,
    /// The transfer driver, stamped in when the VM was made. Absent for a volatile disk that was never deployed.
    pub tm_mad: Option<String>,
    /// The system datastore's driver where it is another one: `ssh` for disks exported to a file on the host.
    pub tm_mad_system: Option<String>,
    /// The datastore of the image; of a volatile disk, the system datastore.
    pub datastore_id: Option<i32>,
    /// `pool/image` on Ceph; absent for volatile disks.
    pub source: Option<String>,
    /// The OpenNebula image.
    pub image_id: Option<i32>,
    /// Whether the VM has a clone of the image instead of the image itself. `None` where absent or neither
    /// YES nor NO.
    pub clone: Option<bool>,
    /// Whether the disk is kept when the VM ends.
    pub save: Option<bool>,
    /// Whether the VM can't write to it.
    pub readonly: Option<bool>,
    /// Whether several VMs may use the image at once.
    pub shareable: bool,
    /// `TYPE`: `fs` or `swap` for volatile disks, `CDROM`, else as [`Self::disk_type`].
    pub device_type: Option<String>,
    /// `DISK_TYPE`: `RBD`, `FILE`, `BLOCK` …
    pub disk_type: Option<String>,
    /// `POOL_NAME` as copied from the datastore, or as a user wrote it.
    pub pool_name: Option<String>,
    /// The device in the guest, such as `vda`.
    pub target: Option<String>,
    /// Its size in megabytes, as oned believes it to be.
    pub size: Option<u64>,
}

impl Disk {
    /// Whether it is made for the VM and removed with it (`fs`, `swap`). Told by TYPE alone: oned overwrites that of
    /// a disk with an image, and lets a user's own DISK_TYPE stand.
    pub fn is_volatile(&self) -> bool {
        self.has_type("fs") || self.has_type("swap")
    }

    /// Whether it is a CD-ROM, which no VM writes to and many may share.
    pub fn is_cdrom(&self) -> bool {
        self.has_type("CDROM") || self.has_type("RBD_CDROM")
    }

    /// Whether a Ceph image is exported to a file on the host (`ln.ssh`, `clone.ssh`) and the VM runs on that
    /// file. A persistent one is written back into `SOURCE` by `mvds.ssh` when the VM ends.
    pub fn is_exported(&self) -> bool {
        self.tm_mad_system.as_deref().is_some_and(|driver| driver.eq_ignore_ascii_case("ssh"))
    }

    fn has_type(&self, name: &str) -> bool {
        self.device_type.as_deref().is_some_and(|text| text.eq_ignore_ascii_case(name))
    }
}

/// An OpenNebula image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Number within this front-end.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// `pool/image` on Ceph.
    pub source: String,
    /// Its datastore.
    pub datastore_id: i32,
    /// Whether a VM uses the image itself and keeps what it writes.
    pub persistent: bool,
    /// The VMs that use it now.
    pub vms: Vec<i32>,
}

impl Image {
    /// Reads an `<IMAGE>`.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<ImageXml>(text, "IMAGE")?.into())
    }

    /// Reads an `<IMAGE_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: ImagePoolXml = read(text, "IMAGE_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }
}

/// The pool where a datastore names none, as in the stock driver's `etc/datastore/ceph/ceph.conf`.
const DEFAULT_POOL: &str = "one";

/// What a datastore is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DatastoreKind {
    /// Images.
    #[default]
    Image,
    /// Disks of VMs.
    System,
    /// Kernels, context files.
    File,
    /// Backups.
    Backup,
    /// A number that OpenNebula 7.4 has no kind for.
    Other(i32),
}

/// A datastore: where onemirror takes pool, user and hosts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datastore {
    /// Number within this front-end.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// The transfer driver.
    pub tm_mad: String,
    /// What it is for.
    pub kind: DatastoreKind,
    /// Whether it may be used.
    pub state: DatastoreState,
    /// `POOL_NAME`: `pool[/namespace]`.
    pub pool_name: Option<String>,
    /// `CEPH_USER`, without `client.`.
    pub ceph_user: Option<String>,
    /// `CEPH_CONF`: a path on the hosts that run `rbd`.
    pub ceph_conf: Option<String>,
    /// `CEPH_KEY`: the path of a keyfile on those hosts, not the key.
    pub ceph_key: Option<String>,
    /// `BRIDGE_LIST`: the hosts that run `rbd`; empty means the front-end or the VM's host.
    pub bridge_list: Vec<String>,
    /// `CEPH_TRASH`: whether the stock driver moves images to the trash instead of removing them.
    pub ceph_trash: bool,
}

impl Datastore {
    /// Reads a `<DATASTORE>`.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<DatastoreXml>(text, "DATASTORE")?.into())
    }

    /// Reads a `<DATASTORE_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: DatastorePoolXml = read(text, "DATASTORE_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }

    /// Whether its disks are RBD images.
    pub fn is_ceph(&self) -> bool {
        self.tm_mad.eq_ignore_ascii_case("ceph")
    }

    /// The pool that its images are in: `pool[/namespace]`.
    pub fn pool(&self) -> &str {
        self.pool_name.as_deref().unwrap_or(DEFAULT_POOL)
    }

    /// Whether an image may be one of its own. A POOL_NAME without namespace covers the pool's namespaces; one with a
    /// namespace only that one.
    pub fn covers(&self, image: &ImageSpec) -> bool {
        image.pool_spec() == self.pool() || image.pool() == self.pool()
    }
}

/// What oned tells the datastore driver to work on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverAction {
    /// The image.
    pub image: Image,
    /// Its datastore.
    pub datastore: Datastore,
}

impl DriverAction {
    /// Reads a `<DS_DRIVER_ACTION_DATA>`.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        let action: DriverActionXml = read(text, "DS_DRIVER_ACTION_DATA")?;
        Ok(Self { image: action.image.into(), datastore: action.datastore.into() })
    }
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Number within this front-end.
    pub id: i32,
    /// Its name, by which ssh reaches it.
    pub name: String,
    /// State.
    pub state: HostState,
}

impl Host {
    /// Reads a `<HOST>`, from oned or from what a hook got.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<HostXml>(text, "HOST")?.into())
    }

    /// Reads a `<HOST_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: HostPoolXml = read(text, "HOST_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }
}

/// A user of OpenNebula, as far as it matters what lists show to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Number within this front-end.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// All of its groups.
    pub groups: Vec<i32>,
}

impl User {
    /// Reads a `<USER>`.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<UserXml>(text, "USER")?.into())
    }

    /// Whether it is in the group `oneadmin` (0), whose members alone see every VM and image: for anybody else,
    /// what a list does not show may exist all the same.
    pub fn sees_everything(&self) -> bool {
        self.groups.contains(&0)
    }
}

/// A zone of a federation; where there is none, the one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Number.
    pub id: i32,
    /// The front-ends that share its database, by name; none or one where there is no high availability.
    pub servers: Vec<String>,
}

impl Zone {
    /// Reads a `<ZONE_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: ZonePoolXml = read(text, "ZONE_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }
}

/// A hook definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// Number within this front-end.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// `state` or `api`.
    pub kind: String,
    /// The single-valued attributes: COMMAND, ARGUMENTS, STATE …
    pub template: BTreeMap<String, String>,
}

/// How a run of a hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// Its exit status; 255 where it ran out of time.
    pub status: i32,
    /// The last line that it complained.
    pub said: String,
}

impl HookRun {
    /// The last run in a `<HOOK>` of `one.hook.info`, if it ever ran.
    pub fn last_from_xml(text: &str) -> Result<Option<Self>, DocumentError> {
        let hook: HookXml = read(text, "HOOK")?;
        let last = hook.hooklog.records.into_iter().max_by_key(|record| record.execution_id);
        Ok(last.map(|record| {
            let encoded: String = record.execution_result.stderr.text.split_whitespace().collect();
            let said = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            Self { status: record.execution_result.code, said: excerpt(last) }
        }))
    }
}

impl Hook {
    /// Reads a `<HOOK>`.
    pub fn from_xml(text: &str) -> Result<Self, DocumentError> {
        Ok(read::<HookXml>(text, "HOOK")?.into())
    }

    /// Reads a `<HOOK_POOL>`.
    pub fn pool_from_xml(text: &str) -> Result<Vec<Self>, DocumentError> {
        let pool: HookPoolXml = read(text, "HOOK_POOL")?;
        Ok(pool.members.into_iter().map(Into::into).collect())
    }
}

fn read<T: DeserializeOwned>(text: &str, root: &'static str) -> Result<T, DocumentError> {
    if text.len() > MAX_DOCUMENT {
        return Err(DocumentError::new(root, format_args!("larger than {MAX_DOCUMENT} bytes")));
    }
    xml::walk(text, root, |_| Ok(())).map_err(|error| DocumentError::xml(root, &error))?;
    quick_xml::de::from_str(text).map_err(|error| DocumentError::new(root, reason(&error)))
}

/// What serde says, without the document's own text.
fn reason(error: &quick_xml::DeError) -> String {
    match error {
        quick_xml::DeError::Custom(detail) => match detail.split_once("invalid") {
            // "invalid digit found in string" and the like; "invalid type: string "…"" quotes.
            Some((_, rest)) if rest.contains('"') => "an element holds something of another kind".to_owned(),
            _ => detail.clone(),
        },
        other => other.to_string(),
    }
}

/// The text of an element. Elements inside of it, which users can make in their templates, are ignored.
#[derive(Default)]
struct Text {
    text: String,
    nested: bool,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                let mut found = Text::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "$text" {
                        found.text.push_str(&map.next_value::<String>()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        found.nested |= !key.starts_with('@');
                    }
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(TextVisitor)
    }
}

/// Absent and empty mean the same in OpenNebula.
fn filled(text: Option<Text>) -> Option<String> {
    text.map(|found| found.text).filter(|text| !text.is_empty())
}

fn yes_or_no(text: Option<Text>) -> Option<bool> {
    let text = filled(text)?;
    match text.as_str() {
        yes if yes.eq_ignore_ascii_case("yes") => Some(true),
        no if no.eq_ignore_ascii_case("no") => Some(false),
        _ => None,
    }
}

fn single_valued(template: BTreeMap<String, Text>) -> BTreeMap<String, String> {
    template.into_iter().filter(|(_, text)| !text.nested).map(|(name, text)| (name, text.text)).collect()
}

/// A number that may be absent or empty, but not another text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let found = Text::deserialize(deserializer)?;
    let text = found.text.trim();
    if text.is_empty() && !found.nested {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| serde::de::Error::custom("a number is not a number"))
}

/// A number in an attribute that oned does not overwrite in every disk, so that users can write anything there. What is
/// no number is absent: one VM's template must not make the list of all VMs unreadable.
fn users_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    Ok(Text::deserialize(deserializer)?.text.trim().parse().ok())
}

/// An id is never negative in a document, but for oned's "none", -1.
fn id_or_none(id: Option<i32>) -> Option<i32> {
    id.filter(|id| *id >= 0)
}

fn required_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    match number(deserializer)? {
        Some(id) if id >= 0 => Ok(id),
        _ => Err(serde::de::Error::custom("an id is missing or negative")),
    }
}

fn required_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    number(deserializer)?.ok_or_else(|| serde::de::Error::custom("a number is missing"))
}

#[derive(serde::Deserialize)]
struct VmPoolXml {
    #[serde(rename = "VM", default)]
    members: Vec<VmXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct VmXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(deserialize_with = "required_number")]
    uid: i32,
    #[serde(deserialize_with = "required_number")]
    state: i32,
    #[serde(deserialize_with = "required_number")]
    lcm_state: i32,
    #[serde(default)]
    stime: Text,
    template: VmTemplateXml,
    #[serde(default)]
    user_template: BTreeMap<String, Text>,
    #[serde(default)]
    history_records: HistoryRecordsXml,
}

#[derive(serde::Deserialize)]
struct VmTemplateXml {
    #[serde(rename = "DISK", default)]
    disks: Vec<DiskXml>,
    #[serde(rename = "CONTEXT", default)]
    context: Vec<IgnoredAny>,
    #[serde(rename = "OS", default)]
    os: Vec<OsXml>,
}

#[derive(serde::Deserialize)]
struct OsXml {
    #[serde(rename = "UUID")]
    uuid: Option<Text>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct DiskXml {
    #[serde(deserialize_with = "required_id")]
    disk_id: i32,
    tm_mad: Option<Text>,
    tm_mad_system: Option<Text>,
    #[serde(default, deserialize_with = "users_number")]
    datastore_id: Option<i32>,
    source: Option<Text>,
    #[serde(default, deserialize_with = "users_number")]
    image_id: Option<i32>,
    clone: Option<Text>,
    save: Option<Text>,
    readonly: Option<Text>,
    shareable: Option<Text>,
    r#type: Option<Text>,
    disk_type: Option<Text>,
    pool_name: Option<Text>,
    target: Option<Text>,
    size: Option<Text>,
}

#[derive(Default, serde::Deserialize)]
struct HistoryRecordsXml {
    #[serde(rename = "HISTORY", default)]
    records: Vec<HistoryXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HistoryXml {
    #[serde(deserialize_with = "required_number")]
    seq: i32,
    hostname: Option<Text>,
    #[serde(default, deserialize_with = "number")]
    hid: Option<i32>,
    tm_mad: Option<Text>,
    #[serde(default, deserialize_with = "number")]
    ds_id: Option<i32>,
}

impl From<VmXml> for Vm {
    fn from(xml: VmXml) -> Self {
        let newest = xml.history_records.records.into_iter().max_by_key(|record| record.seq);
        let (host, host_id, tm_mad, system_datastore) = match newest {
            Some(record) => (
                filled(record.hostname),
                id_or_none(record.hid),
                filled(record.tm_mad),
                id_or_none(record.ds_id),
            ),
            None => (None, None, None, None),
        };
        let user_attributes = single_valued(xml.user_template);
        Self {
            id: xml.id,
            name: excerpt(&xml.name.text),
            uid: xml.uid,
            made: xml.stime.text.trim().parse().ok(),
            uuid: xml.template.os.into_iter().find_map(|os| filled(os.uuid)),
            state: xml.state.into(),
            lcm_state: xml.lcm_state.into(),
            disks: xml.template.disks.into_iter().map(Into::into).collect(),
            has_context: !xml.template.context.is_empty(),
            system_datastore,
            host,
            host_id,
            tm_mad,
            user_error: user_attributes
                .get("ERROR")
                .map(|text| excerpt(text))
                .filter(|text| !text.is_empty()),
            user_attributes,
        }
    }
}

impl From<DiskXml> for Disk {
    fn from(xml: DiskXml) -> Self {
        Self {
            id: xml.disk_id,
            tm_mad: filled(xml.tm_mad),
            tm_mad_system: filled(xml.tm_mad_system),
            datastore_id: id_or_none(xml.datastore_id),
            source: filled(xml.source),
            image_id: id_or_none(xml.image_id),
            clone: yes_or_no(xml.clone),
            save: yes_or_no(xml.save),
            readonly: yes_or_no(xml.readonly),
            shareable: yes_or_no(xml.shareable).unwrap_or(false),
            device_type: filled(xml.r#type),
            disk_type: filled(xml.disk_type),
            pool_name: filled(xml.pool_name),
            target: filled(xml.target),
            size: filled(xml.size).and_then(|size| size.parse().ok()),
        }
    }
}

#[derive(serde::Deserialize)]
struct ImagePoolXml {
    #[serde(rename = "IMAGE", default)]
    members: Vec<ImageXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ImageXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    source: Text,
    #[serde(deserialize_with = "required_number")]
    datastore_id: i32,
    #[serde(deserialize_with = "required_number")]
    persistent: i32,
    #[serde(default)]
    vms: IdsXml,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct DriverActionXml {
    image: ImageXml,
    datastore: DatastoreXml,
}

#[derive(Default, serde::Deserialize)]
struct IdsXml {
    #[serde(rename = "ID", default)]
    ids: Vec<IdXml>,
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct IdXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
}

impl From<ImageXml> for Image {
    fn from(xml: ImageXml) -> Self {
        Self {
            id: xml.id,
            name: excerpt(&xml.name.text),
            source: xml.source.text,
            datastore_id: xml.datastore_id,
            persistent: xml.persistent != 0,
            vms: xml.vms.ids.into_iter().map(|entry| entry.id).collect(),
        }
    }
}

#[derive(serde::Deserialize)]
struct DatastorePoolXml {
    #[serde(rename = "DATASTORE", default)]
    members: Vec<DatastoreXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct DatastoreXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    tm_mad: Text,
    #[serde(deserialize_with = "required_number")]
    r#type: i32,
    #[serde(default, deserialize_with = "number")]
    state: Option<i32>,
    template: DatastoreTemplateXml,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct DatastoreTemplateXml {
    pool_name: Option<Text>,
    ceph_user: Option<Text>,
    ceph_conf: Option<Text>,
    ceph_key: Option<Text>,
    ceph_trash: Option<Text>,
    bridge_list: Option<Text>,
}

impl From<DatastoreXml> for Datastore {
    fn from(xml: DatastoreXml) -> Self {
        let template = xml.template;
        Self {
            id: xml.id,
            name: excerpt(&xml.name.text),
            tm_mad: xml.tm_mad.text,
            kind: match xml.r#type {
                0 => DatastoreKind::Image,
                1 => DatastoreKind::System,
                2 => DatastoreKind::File,
                3 => DatastoreKind::Backup,
                other => DatastoreKind::Other(other),
            },
            state: xml.state.unwrap_or_default().into(),
            pool_name: filled(template.pool_name),
            ceph_user: filled(template.ceph_user),
            ceph_conf: filled(template.ceph_conf),
            ceph_key: filled(template.ceph_key),
            // The stock driver splits it as a shell does.
            bridge_list: filled(template.bridge_list)
                .map(|hosts| hosts.split_ascii_whitespace().map(Into::into).collect())
                .unwrap_or_default(),
            ceph_trash: filled(template.ceph_trash)
                .is_some_and(|text| matches!(text.as_str(), "yes" | "YES" | "true" | "TRUE")),
        }
    }
}

#[derive(serde::Deserialize)]
struct HostPoolXml {
    #[serde(rename = "HOST", default)]
    members: Vec<HostXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct UserXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    groups: IdsXml,
}

impl From<UserXml> for User {
    fn from(xml: UserXml) -> Self {
        let groups = xml.groups.ids.into_iter().map(|entry| entry.id).collect();
        Self { id: xml.id, name: xml.name.text, groups }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HostXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(deserialize_with = "required_number")]
    state: i32,
}

impl From<HostXml> for Host {
    fn from(xml: HostXml) -> Self {
        Self { id: xml.id, name: xml.name.text, state: xml.state.into() }
    }
}

#[derive(serde::Deserialize)]
struct ZonePoolXml {
    #[serde(rename = "ZONE", default)]
    members: Vec<ZoneXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ZoneXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    server_pool: ServerPoolXml,
}

#[derive(Default, serde::Deserialize)]
struct ServerPoolXml {
    #[serde(rename = "SERVER", default)]
    members: Vec<ServerXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct ServerXml {
    #[serde(default)]
    name: Text,
}

impl From<ZoneXml> for Zone {
    fn from(xml: ZoneXml) -> Self {
        let servers = xml.server_pool.members.iter().map(|server| excerpt(&server.name.text)).collect();
        Self { id: xml.id, servers }
    }
}

#[derive(serde::Deserialize)]
struct HookPoolXml {
    #[serde(rename = "HOOK", default)]
    members: Vec<HookXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HookXml {
    #[serde(deserialize_with = "required_id")]
    id: i32,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    r#type: Text,
    #[serde(default)]
    template: BTreeMap<String, Text>,
    #[serde(default)]
    hooklog: HookLogXml,
}

#[derive(Default, serde::Deserialize)]
struct HookLogXml {
    #[serde(rename = "HOOK_EXECUTION_RECORD", default)]
    records: Vec<HookRecordXml>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HookRecordXml {
    #[serde(deserialize_with = "required_id")]
    execution_id: i32,
    execution_result: HookResultXml,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
struct HookResultXml {
    #[serde(default)]
    stderr: Text,
    #[serde(deserialize_with = "required_number")]
    code: i32,
}

impl From<HookXml> for Hook {
    fn from(xml: HookXml) -> Self {
        Self {
            id: xml.id,
            name: excerpt(&xml.name.text),
            kind: xml.r#type.text,
            template: single_valued(xml.template),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!("../../tests/fixtures/opennebula/", $name))
        };
    }

    const VM: &str = fixture!("vm.running.site-a.xml");
    const DONE: &str = fixture!("vm.done.site-b.xml");
    const IMAGE: &str = fixture!("image.nonpersistent.site-a.xml");
    const DATASTORE: &str = fixture!("datastore.image.site-a.xml");
    const SYSTEM: &str = fixture!("datastore.system.site-a.xml");
    const HOST: &str = fixture!("host.site-a.xml");
    const HOOK: &str = fixture!("hook.site-b.xml");
    const HOOKS: &str = fixture!("hookpool.site-b.xml");

    type XmlParser = fn(&str) -> bool;
    const PARSERS: &[(&str, XmlParser)] = &[
        (VM, |text| Vm::from_xml(text).is_ok()),
        (DONE, |text| Vm::from_xml(text).is_ok()),
        (IMAGE, |text| Image::from_xml(text).is_ok()),
        (DATASTORE, |text| Datastore::from_xml(text).is_ok()),
        (SYSTEM, |text| Datastore::from_xml(text).is_ok()),
        (HOST, |text| Host::from_xml(text).is_ok()),
        (HOOK, |text| Hook::from_xml(text).is_ok()),
        (HOOKS, |text| Hook::pool_from_xml(text).is_ok()),
    ];

    fn decoded(stdin: &str) -> String {
        String::from_utf8(BASE64_STANDARD.decode(stdin.trim()).unwrap()).unwrap()
    }

    #[test]
    fn reads_a_running_vm() {
        let vm = Vm::from_xml(VM).unwrap();
        assert_eq!((vm.id, vm.uid, vm.name.as_str()), (2, 0, "alpine-0-2"));
        assert!(vm.made.is_some_and(|made| made > 1_000_000_000));
        assert_eq!(vm.uuid.as_deref().map(str::len), Some(36));
        // a template may hold anything
        for os in ["<OS>x</OS>", "<OS/>", "<OS><UUID/></OS>", "<OS><UUID><A>x</A></UUID></OS>"] {
            let from = VM.find("<OS>").unwrap();
            let to = VM.find("</OS>").unwrap() + "</OS>".len();
            let text = format!("{}{os}{}", &VM[..from], &VM[to..]);
            assert_eq!(Vm::from_xml(&text).unwrap().uuid, None, "{os}");
        }
        assert_eq!((vm.state, vm.lcm_state), (VmState::Active, LcmState::Running));
        assert_eq!(vm.state_name(), "RUNNING");
        assert!(vm.has_context);
        // The newest of four history records.
        assert_eq!(
            (vm.system_datastore, vm.host.as_deref(), vm.host_id),
            (Some(100), Some("hosta"), Some(8))
        );
        assert_eq!(vm.tm_mad.as_deref(), Some("ceph"));
        assert_eq!(
            vm.disks,
            [Disk {
                id: 0,
                tm_mad: Some("ceph".into()),
                datastore_id: Some(101),
                source: Some("one/one-0".into()),
                image_id: Some(0),
                clone: Some(true),
                save: Some(false),
                readonly: Some(false),
                device_type: Some("RBD".into()),
                disk_type: Some("RBD".into()),
                pool_name: Some("one".into()),
                target: Some("vda".into()),
                size: Some(64),
                ..Disk::default()
            }]
        );
        let error = vm.user_error.unwrap();
        assert!(error.ends_with("DEPLOY: one-0-2-0 is primary on site-b; not booting"), "{error}");
    }

    #[test]
    fn reads_a_vm_that_is_done() {
        let vm = Vm::from_xml(DONE).unwrap();
        assert_eq!((vm.id, vm.state_name().as_str(), vm.user_error), (0, "DONE", None));
        assert_eq!((vm.disks[0].clone, vm.disks[0].save), (Some(false), Some(true)));
        assert_eq!(vm.disks[0].source.as_deref(), Some("one/one-0-2-0"));
    }

    #[test]
    fn reads_what_hooks_got() {
        for (stdin, state) in [
            (fixture!("hook-a-ACTIVE-BOOT_POWEROFF.1.stdin"), "BOOT_POWEROFF"),
            (fixture!("hook-a-ACTIVE-BOOT_POWEROFF.3.stdin"), "BOOT_POWEROFF"),
            (fixture!("hook-a-ACTIVE-RUNNING.2.stdin"), "RUNNING"),
            (fixture!("hook-a-POWEROFF-LCM_INIT.2.stdin"), "POWEROFF"),
            (fixture!("hook-b-ACTIVE-EPILOG.1.stdin"), "EPILOG"),
            (fixture!("hook-b-ACTIVE-SHUTDOWN.1.stdin"), "SHUTDOWN"),
            (fixture!("hook-b-DONE-LCM_INIT.1.stdin"), "DONE"),
        ] {
            let vm = Vm::from_xml(&decoded(stdin)).unwrap();
            assert_eq!(vm.state_name(), state);
            assert_eq!((vm.disks.len(), vm.system_datastore, vm.has_context), (1, Some(100), true));
        }
    }

    #[test]
    fn reads_images_datastores_hosts_and_hooks() {
        let image = Image::from_xml(IMAGE).unwrap();
        assert_eq!(
            (
                image.id,
                image.name.as_str(),
                image.source.as_str(),
                image.datastore_id,
                image.persistent,
                image.vms
            ),
            (0, "alpine", "one/one-0", 101, false, vec![2])
        );
        let image = Image::from_xml(fixture!("image.persistent.site-b.xml")).unwrap();
        assert_eq!((image.source.as_str(), image.persistent, image.vms), ("one/one-0-2-0", true, vec![]));

        let datastore = Datastore::from_xml(DATASTORE).unwrap();
        assert_eq!(
            datastore,
            Datastore {
                id: 101,
                name: "ceph_img".into(),
                tm_mad: "ceph".into(),
                pool_name: Some("one".into()),
                ceph_user: Some("libvirt".into()),
                ceph_conf: Some("/etc/ceph/site-a.conf".into()),
                bridge_list: vec!["hosta".into()],
                ..Datastore::default()
            }
        );
        assert_eq!(Datastore::from_xml(SYSTEM).unwrap().kind, DatastoreKind::System);

        let host = Host::from_xml(HOST).unwrap();
        assert_eq!(host, Host { id: 8, name: "hosta".into(), state: HostState::Monitored });

        let hook = Hook::from_xml(HOOK).unwrap();
        assert_eq!(
            (hook.id, hook.name.as_str(), hook.kind.as_str()),
            (0, "rec-ACTIVE-BOOT_POWEROFF", "state")
        );
        assert_eq!(hook.template.get("ARGUMENTS").map(String::as_str), Some("$TEMPLATE"));
        assert_eq!(HookRun::last_from_xml(HOOK).unwrap(), None);
        let record = |id, said: &str, code| {
            format!(
                "<HOOK_EXECUTION_RECORD><HOOK_ID>0</HOOK_ID><EXECUTION_ID>{id}</EXECUTION_ID><TIMESTAMP>1</TIMESTAMP>\
                <ARGUMENTS/><EXECUTION_RESULT><COMMAND>x</COMMAND><STDOUT></STDOUT><STDERR>{}\n</STDERR>\
                <CODE>{code}</CODE></EXECUTION_RESULT></HOOK_EXECUTION_RECORD>",
                BASE64_STANDARD.encode(said)
            )
        };
        let log =
            format!("<HOOKLOG>{}{}</HOOKLOG>", record(10, "a\nno \u{1b}[1mway\n\n", 3), record(9, "", 0));
        let run = HookRun::last_from_xml(&HOOK.replace("<HOOKLOG/>", &log)).unwrap().unwrap();
        assert_eq!((run.status, run.said.contains("way"), run.said.contains('\u{1b}')), (3, true, false));
        let hooks = Hook::pool_from_xml(HOOKS).unwrap();
        assert_eq!(hooks.iter().map(|hook| hook.id).collect::<Vec<_>>(), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn pools_of_none_and_of_many() {
        for empty in ["<VM_POOL></VM_POOL>", "<VM_POOL/>", "<VM_POOL>\n</VM_POOL>\n"] {
            assert_eq!(Vm::pool_from_xml(empty).unwrap(), []);
        }
        for empty in ["<IMAGE_POOL/>", "<IMAGE_POOL></IMAGE_POOL>"] {
            assert_eq!(Image::pool_from_xml(empty).unwrap(), []);
        }
        assert_eq!(Datastore::pool_from_xml("<DATASTORE_POOL/>").unwrap(), []);
        assert_eq!(Host::pool_from_xml("<HOST_POOL/>").unwrap(), []);
        assert_eq!(Hook::pool_from_xml("<HOOK_POOL/>").unwrap(), []);
        let zones = "<ZONE_POOL><ZONE><ID>0</ID><NAME>OpenNebula</NAME><TEMPLATE/><SERVER_POOL>\
            <SERVER><ENDPOINT>http://a:2633/RPC2</ENDPOINT><ID>0</ID><NAME>a</NAME></SERVER>\
            <SERVER><ENDPOINT>http://b:2633/RPC2</ENDPOINT><ID>1</ID><NAME>b</NAME></SERVER>\
            </SERVER_POOL></ZONE><ZONE><ID>1</ID><SERVER_POOL/></ZONE></ZONE_POOL>";
        let zones = Zone::pool_from_xml(zones).unwrap();
        assert_eq!(zones[0], Zone { id: 0, servers: vec!["a".into(), "b".into()] });
        assert_eq!(zones[1], Zone { id: 1, servers: vec![] });
        let pool = format!("<VM_POOL>{VM}{DONE}</VM_POOL>");
        assert_eq!(Vm::pool_from_xml(&pool).unwrap().iter().map(|vm| vm.id).collect::<Vec<_>>(), [2, 0]);
        // A pool is not a member and the other way round.
        assert!(Vm::from_xml(&pool).is_err());
        assert!(Vm::pool_from_xml(VM).is_err());
        assert!(Image::pool_from_xml("<VM_POOL/>").is_err());
        // One unreadable member spoils the pool.
        assert!(Vm::pool_from_xml("<VM_POOL><VM><ID>1</ID></VM></VM_POOL>").is_err());
    }

    fn vm_with(template: &str, user_template: &str, history: &str) -> String {
        format!(
            "<VM><ID>7</ID><UID>3</UID><NAME>n</NAME><STATE>3</STATE><LCM_STATE>3</LCM_STATE>\
             <TEMPLATE>{template}</TEMPLATE><USER_TEMPLATE>{user_template}</USER_TEMPLATE>\
             <HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
        )
    }

    #[test]
    fn many_disks_and_odd_ids() {
        let vm = Vm::from_xml(&vm_with(
            "<DISK><DISK_ID>0</DISK_ID><CLONE>yes</CLONE></DISK><DISK><DISK_ID><![CDATA[12]]></DISK_ID>\
             <DATASTORE_ID></DATASTORE_ID><IMAGE_ID>-1</IMAGE_ID><CLONE>maybe</CLONE><TYPE>Swap</TYPE></DISK>",
            "",
            "",
        ))
        .unwrap();
        assert_eq!(vm.disks.iter().map(|disk| disk.id).collect::<Vec<_>>(), [0, 12]);
        assert_eq!((vm.disks[0].clone, vm.disks[1].clone), (Some(true), None));
        assert_eq!((vm.disks[1].datastore_id, vm.disks[1].image_id), (None, None));
        assert!(vm.disks[1].is_volatile() && !vm.disks[0].is_volatile());
        assert!(!vm.has_context && vm.system_datastore.is_none());
        for disk in ["<DISK/>", "<DISK><DISK_ID>x</DISK_ID></DISK>", "<DISK><DISK_ID>-1</DISK_ID></DISK>"] {
            assert!(Vm::from_xml(&vm_with(disk, "", "")).is_err(), "{disk}");
        }
        let twice = "<DISK><DISK_ID>0</DISK_ID><SOURCE>one/a</SOURCE><SOURCE>one/b</SOURCE></DISK>";
        assert!(Vm::from_xml(&vm_with(twice, "", "")).is_err());
    }

    #[test]
    fn the_newest_history_record_counts_wherever_it_stands() {
        let record = |seq: i32, host: &str| {
            format!(
                "<HISTORY><SEQ>{seq}</SEQ><HOSTNAME>{host}</HOSTNAME><DS_ID>{}</DS_ID></HISTORY>",
                100 + seq
            )
        };
        let history = format!("{}{}{}", record(10, "new"), record(9, "old"), record(2, "older"));
        let vm = Vm::from_xml(&vm_with("", "", &history)).unwrap();
        assert_eq!((vm.host.as_deref(), vm.system_datastore), (Some("new"), Some(110)));
    }

    #[test]
    fn what_users_put_into_their_template_does_no_harm() {
        let vm = Vm::from_xml(&vm_with(
            "<CONTEXT><A>b</A></CONTEXT>",
            "<ERROR>one</ERROR><ERROR><![CDATA[two\u{1b}[2J<b>]]></ERROR><ID>9</ID><DISK><DISK_ID>5</DISK_ID></DISK>\
             <NESTED>text<A>1</A>more</NESTED><STATE>6</STATE>",
            "",
        ))
        .unwrap();
        assert_eq!((vm.id, vm.state, vm.disks.len(), vm.has_context), (7, VmState::Active, 0, true));
        assert_eq!(vm.user_error.as_deref(), Some("two [2J<b>"));
        assert_eq!(vm.user_attributes.get("ID").map(String::as_str), Some("9"));
        assert!(!vm.user_attributes.contains_key("NESTED") && !vm.user_attributes.contains_key("DISK"));
        let nested = Vm::from_xml(&vm_with("", "<ERROR><A>1</A></ERROR>", "")).unwrap();
        assert_eq!(nested.user_error, None);
    }

    #[test]
    fn a_truncated_document_is_no_document() {
        for (text, parses) in PARSERS {
            let text = text.trim_end();
            assert!(parses(text));
            for cut in (0..text.len()).step_by(11).chain(text.len() - 12..text.len()) {
                if let Some(part) = text.get(..cut) {
                    assert!(!parses(part), "cut at {cut} of {}", text.len());
                }
            }
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let bomb = format!("<!DOCTYPE VM [<!ENTITY a \"b\">]>{}", VM.replace("alpine-0-2", "&a;"));
        let deep = format!("<VM>{}{}</VM>", "<A>".repeat(100_000), "</A>".repeat(100_000));
        let behind = format!("{VM}<VM/>");
        for text in [bomb.as_str(), deep.as_str(), behind.as_str(), &VM.replace("<ID>2<", "<ID>&two;<")] {
            assert!(Vm::from_xml(text).is_err());
        }
        assert!(Vm::from_xml(&" ".repeat(MAX_DOCUMENT + 1)).is_err());
        let secret = VM.replace("<STATE>3<", "<STATE>hunter2<");
        let error = Vm::from_xml(&secret).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn a_damaged_document_never_panics(
            which in 0..PARSERS.len(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (text, parses) = PARSERS[which];
            let mut bytes = text.as_bytes().to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            parses(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_document_with_a_hole_never_panics(
            which in 0..PARSERS.len(), from in any::<prop::sample::Index>(), length in 1usize..200,
        ) {
            let (text, parses) = PARSERS[which];
            let from = from.index(text.len());
            let to = (from + length).min(text.len());
            if let (Some(head), Some(tail)) = (text.get(..from), text.get(to..)) {
                parses(&format!("{head}{tail}"));
            }
        }
    }

    #[test]
    fn only_the_group_oneadmin_sees_everything() {
        let user = |groups: &str| {
            User::from_xml(&format!(
                "<USER><ID>4</ID><GID>1</GID><GROUPS>{groups}</GROUPS><NAME>dr</NAME></USER>"
            ))
        };
        assert!(user("<ID>1</ID><ID>0</ID>").unwrap().sees_everything());
        assert!(!user("<ID>1</ID><ID>100</ID>").unwrap().sees_everything());
        assert!(!user("").unwrap().sees_everything());
        assert!(User::from_xml("<VM><ID>4</ID></VM>").is_err());
    }
}

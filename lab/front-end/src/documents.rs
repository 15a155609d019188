//! The documents of `one.*.info`, member for member in oned's order.

use base64::Engine as _;

use crate::hooks::Execution;
use crate::states::VmState;
use crate::store::{Datastore, History, Hook, Host, Image, Machine, Records};
use crate::template::Template;
use crate::xml::Element;

/// How much of a VM is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// `one.vm.info`: everything, with monitoring and all history records.
    Full,
    /// What a state hook gets: all history records, no monitoring.
    Hook,
    /// `one.vmpool.infoextended`: the last history record, no monitoring.
    Pool,
}

/// A VM's document.
pub fn machine(machine: &Machine, detail: Detail) -> Element {
    let mut children = owned(machine.id, &machine.name, Some(0));
    let last_poll = if detail == Detail::Full { machine.last_poll } else { 0 };
    children.extend([
        Element::text("LAST_POLL", last_poll),
        Element::text("STATE", machine.state.code()),
        Element::text("LCM_STATE", machine.lcm_state.code()),
        Element::text("PREV_STATE", machine.prev_state.code()),
        Element::text("PREV_LCM_STATE", machine.prev_lcm_state.code()),
        Element::text("RESCHED", 0),
        Element::text("STIME", machine.stime),
        Element::text("ETIME", machine.etime),
        Element::text("DEPLOY_ID", &machine.deploy_id),
        Element::group("MONITORING", if last_poll > 0 { monitoring(machine) } else { vec![] }),
        Element::group("SCHED_ACTIONS", vec![]),
        machine.template.element("TEMPLATE"),
        machine.user_template.element("USER_TEMPLATE"),
    ]);
    let shown = if detail == Detail::Pool { machine.history.len().saturating_sub(1) } else { 0 };
    children.push(Element::group(
        "HISTORY_RECORDS",
        machine.history[shown..].iter().map(|record| history(machine.id, record)).collect(),
    ));
    children.extend(
        machine
            .snapshots
            .iter()
            .filter(|(_, all)| !all.is_empty())
            .map(|(disk, all)| all.element(Some(*disk))),
    );
    children.push(Element::group(
        "BACKUPS",
        vec![Element::group("BACKUP_CONFIG", vec![]), Element::group("BACKUP_IDS", vec![])],
    ));
    Element::group("VM", children)
}

/// A VM in `one.vmpool.info`: identity, states, the last host.
pub fn machine_short(machine: &Machine) -> Element {
    let mut children = owned(machine.id, &machine.name, None);
    children.extend([
        Element::text("LAST_POLL", machine.last_poll),
        Element::text("STATE", machine.state.code()),
        Element::text("LCM_STATE", machine.lcm_state.code()),
        Element::text("RESCHED", 0),
        Element::text("STIME", machine.stime),
        Element::text("ETIME", machine.etime),
        Element::text("DEPLOY_ID", &machine.deploy_id),
        Element::group(
            "TEMPLATE",
            vec![
                Element::text("CPU", machine.template.get("CPU").unwrap_or_default()),
                Element::text("MEMORY", machine.template.get("MEMORY").unwrap_or_default()),
            ],
        ),
        Element::group("USER_TEMPLATE", vec![]),
    ]);
    let last = machine.history.last().map(|record| {
        Element::group(
            "HISTORY",
            vec![
                Element::text("OID", machine.id),
                Element::text("SEQ", record.seq),
                Element::text("HOSTNAME", &record.hostname),
                Element::text("HID", record.host_id),
                Element::text("CID", 0),
                Element::text("DS_ID", record.datastore_id),
                Element::data("VM_MAD", "qemu"),
                Element::data("TM_MAD", &*record.tm_mad),
                Element::text("ACTION", record.action.code()),
            ],
        )
    });
    children.push(Element::group("HISTORY_RECORDS", last.into_iter().collect()));
    Element::group("VM", children)
}

fn monitoring(machine: &Machine) -> Vec<Element> {
    let mut children: Vec<Element> = [
        ("CPU", "1.0"),
        ("DISKRDBYTES", "0"),
        ("DISKRDIOPS", "0"),
        ("DISKWRBYTES", "0"),
        ("DISKWRIOPS", "0"),
    ]
    .map(|(name, value)| Element::data(name, value))
    .into();
    children.push(Element::data("ID", machine.id.to_string()));
    children.extend([("MEMORY", "65536"), ("NETRX", "0"), ("NETTX", "0")].map(|(n, v)| Element::data(n, v)));
    children.push(Element::data("TIMESTAMP", machine.last_poll.to_string()));
    children.push(Element::data("VM_QEMU_PING", "QEMU Guest Agent monitoring disabled"));
    children
}

fn history(machine: i64, record: &History) -> Element {
    Element::group(
        "HISTORY",
        vec![
            Element::text("OID", machine),
            Element::text("SEQ", record.seq),
            Element::text("HOSTNAME", &record.hostname),
            Element::text("HID", record.host_id),
            Element::text("CID", 0),
            Element::text("STIME", record.stime),
            Element::text("ETIME", record.etime),
            Element::data("VM_MAD", "qemu"),
            Element::data("TM_MAD", &*record.tm_mad),
            Element::text("DS_ID", record.datastore_id),
            Element::text("PLAN_ID", -1),
            Element::text("ACTION_ID", 0),
            Element::text("PSTIME", record.pstime),
            Element::text("PETIME", record.petime),
            Element::text("RSTIME", record.rstime),
            Element::text("RETIME", record.retime),
            Element::text("ESTIME", record.estime),
            Element::text("EETIME", record.eetime),
            Element::text("ACTION", record.action.code()),
            Element::text("UID", record.uid),
            Element::text("GID", record.gid),
            Element::text("REQUEST_ID", record.request_id),
        ],
    )
}

/// An image's document; its datastore's name is looked up.
pub fn image(records: &Records, image: &Image) -> Element {
    let datastore = records.datastores.get(image.datastore_id).map_or("", |datastore| &datastore.name);
    let snapshots = [("ALLOW_ORPHANS", "NO"), ("CURRENT_BASE", "-1"), ("NEXT_SNAPSHOT", "0")]
        .map(|(name, value)| Element::data(name, value))
        .into();
    let mut children = owned(image.id, &image.name, Some(0));
    children.extend([
        Element::text("TYPE", image.kind),
        Element::text("DISK_TYPE", image.disk_type),
        Element::text("PERSISTENT", i64::from(image.persistent)),
        Element::text("REGTIME", image.regtime),
        Element::text("MODTIME", image.modtime),
        Element::data("SOURCE", &*image.source),
        Element::data("PATH", &*image.path),
        Element::data("FORMAT", &*image.format),
        Element::data("FS", ""),
        Element::text("SIZE", image.size),
        Element::text("STATE", image.state.code()),
        Element::text("PREV_STATE", image.prev_state.code()),
        Element::text("RUNNING_VMS", image.vms.len()),
        Element::text("CLONING_OPS", image.clones.len()),
        Element::text("CLONING_ID", image.cloning_id.unwrap_or(-1)),
        Element::text("TARGET_SNAPSHOT", image.target_snapshot.unwrap_or(-1)),
        Element::text("DATASTORE_ID", image.datastore_id),
        Element::text("DATASTORE", datastore),
        ids("VMS", image.vms.iter().copied()),
        ids("CLONES", image.clones.iter().copied()),
        Element::group("APP_CLONES", vec![]),
        image.template.element("TEMPLATE"),
        if image.snapshots.is_empty() {
            Element::group("SNAPSHOTS", if image.persistent { vec![] } else { snapshots })
        } else {
            image.snapshots.element(None)
        },
        Element::group("BACKUP_INCREMENTS", vec![]),
        Element::group("BACKUP_DISK_IDS", vec![]),
    ]);
    Element::group("IMAGE", children)
}

/// A datastore's document; `datastores` is the folder that holds one folder per datastore.
pub fn datastore(records: &Records, datastore: &Datastore, datastores: &str) -> Element {
    let get = |name| datastore.template.get(name).unwrap_or("-").to_owned();
    let rbd = datastore.template.get("DISK_TYPE") == Some("RBD");
    let mut children = owned(datastore.id, &datastore.name, Some(1));
    children.extend([
        Element::data("DS_MAD", get("DS_MAD")),
        Element::data("TM_MAD", get("TM_MAD")),
        Element::data("BASE_PATH", format!("{datastores}/{}", datastore.id)),
        Element::text("TYPE", datastore.kind()),
        Element::text("DISK_TYPE", if rbd && !datastore.is_system() { 3 } else { 0 }),
        Element::text("STATE", 0),
        ids("CLUSTERS", [0].into_iter()),
        Element::text("TOTAL_MB", 1945),
        Element::text("FREE_MB", 1943),
        Element::text("USED_MB", 2),
        ids(
            "IMAGES",
            records.images.iter().filter(|(_, image)| image.datastore_id == datastore.id).map(|(id, _)| id),
        ),
        datastore.template.element("TEMPLATE"),
    ]);
    Element::group("DATASTORE", children)
}

/// The one user, in the group of those who see everything.
pub fn oneadmin() -> Element {
    Element::group(
        "USER",
        vec![
            Element::text("ID", 0),
            Element::text("GID", 0),
            Element::group("GROUPS", vec![Element::text("ID", 0)]),
            Element::text("GNAME", "oneadmin"),
            Element::text("NAME", "oneadmin"),
            Element::text("ENABLED", 1),
        ],
    )
}

/// A host's document, with the VMs that count as being on it.
pub fn host(records: &Records, host: &Host) -> Element {
    let on_it = machines_on(records, host);
    let monitoring = if host.monitored > 0 { host_monitoring(host) } else { vec![] };
    Element::group(
        "HOST",
        vec![
            Element::text("ID", host.id),
            Element::text("NAME", &host.name),
            Element::text("STATE", host.state.code()),
            Element::text("PREV_STATE", host.prev_state.code()),
            Element::data("IM_MAD", &*host.im_mad),
            Element::data("VM_MAD", &*host.vm_mad),
            Element::text("CLUSTER_ID", 0),
            Element::text("CLUSTER", "default"),
            Element::group("HOST_SHARE", host_share(on_it.len())),
            ids("VMS", on_it.into_iter()),
            host_template(host).element("TEMPLATE"),
            Element::group("MONITORING", monitoring),
        ],
    )
}

fn machines_on(records: &Records, host: &Host) -> Vec<i64> {
    let counts = |machine: &Machine| {
        matches!(machine.state, VmState::Active | VmState::Suspended | VmState::Poweroff)
            && machine.history.last().is_some_and(|record| record.host_id == host.id)
    };
    records.machines.iter().filter(|(_, machine)| counts(machine)).map(|(id, _)| id).collect()
}

/// What a host has, and what as many VMs take of it.
fn host_share(machines: usize) -> Vec<Element> {
    let datastores =
        [("DISK_USAGE", "0"), ("FREE_DISK", "78801"), ("MAX_DISK", "258020"), ("USED_DISK", "14253")];
    vec![
        Element::text("MEM_USAGE", 98304 * machines),
        Element::text("CPU_USAGE", 10 * machines),
        Element::text("TOTAL_MEM", 24684096),
        Element::text("TOTAL_CPU", 200),
        Element::text("MAX_MEM", 24684096),
        Element::text("MAX_CPU", 200),
        Element::text("RUNNING_VMS", machines),
        Element::text("VMS_THREAD", 1),
        group_of_data("DATASTORES", &datastores),
        Element::group("PCI_DEVICES", vec![]),
        Element::group("NUMA_NODES", vec![numa_node()]),
    ]
}

/// The one node that a host's cores and memory are on.
fn numa_node() -> Element {
    let core = |id: &str, cpus: &str| {
        group_of_data("CORE", &[("CPUS", cpus), ("DEDICATED", "NO"), ("FREE", "1"), ("ID", id)])
    };
    let page = |size| group_of_data("HUGEPAGE", &[("PAGES", "0"), ("SIZE", size), ("USAGE", "0")]);
    Element::group(
        "NODE",
        vec![
            core("1", "1:-1"),
            core("0", "0:-1"),
            page("2048"),
            page("1048576"),
            group_of_data("MEMORY", &[("DISTANCE", "0"), ("TOTAL", "7563480"), ("USAGE", "0")]),
            Element::data("NODE_ID", "0"),
        ],
    )
}

/// What the probes of a host say once.
fn host_template(host: &Host) -> Template {
    let mut template = Template::default();
    for (name, value) in [
        ("ARCH", "x86_64"),
        ("CGROUPS_VERSION", "1"),
        ("CPUSPEED", "0"),
        ("HOSTNAME", &host.name),
        ("HYPERVISOR", "kvm"),
        ("IM_MAD", &host.im_mad),
        ("KVM_CPU_MODEL", "kvm64"),
        ("KVM_CPU_MODELS", "kvm64"),
        ("KVM_MACHINES", "pc q35"),
        ("MODELNAME", "stand-in"),
        ("RESERVED_CPU", ""),
        ("RESERVED_MEM", ""),
        ("TOTALCPU", "200"),
        ("TOTALMEMORY", "24684096"),
        ("VERSION", crate::VERSION),
        ("VM_MAD", &host.vm_mad),
    ] {
        template.set(name, value);
    }
    template
}

/// What they say again and again.
fn host_monitoring(host: &Host) -> Vec<Element> {
    let capacity =
        [("FREE_CPU", "190"), ("FREE_MEMORY", "22447008"), ("USED_CPU", "10"), ("USED_MEMORY", "2237088")];
    let free_page = |size| group_of_data("HUGEPAGE", &[("FREE", "0"), ("SIZE", size)]);
    let numa_node = vec![
        free_page("2048"),
        free_page("1048576"),
        group_of_data("MEMORY", &[("FREE", "4758384"), ("USED", "2805096")]),
        Element::data("NODE_ID", "0"),
    ];
    vec![
        Element::text("TIMESTAMP", host.monitored),
        Element::text("ID", host.id),
        group_of_data("CAPACITY", &capacity),
        group_of_data("SYSTEM", &[("NETRX", "424172950"), ("NETTX", "379941")]),
        Element::group("NUMA_NODE", numa_node),
    ]
}

fn group_of_data(name: &str, members: &[(&str, &str)]) -> Element {
    Element::group(name, members.iter().map(|(name, value)| Element::data(name, *value)).collect())
}

/// A hook's document; only `one.hook.info` has the log member.
pub fn hook(hook: &Hook, log: Option<&[Execution]>) -> Element {
    let mut children = vec![
        Element::text("ID", hook.id),
        Element::text("NAME", &hook.name),
        Element::text("TYPE", &hook.kind),
        hook.template.element("TEMPLATE"),
    ];
    if let Some(log) = log {
        children.push(Element::group("HOOKLOG", (0..).zip(log).map(execution).collect()));
    }
    Element::group("HOOK", children)
}

/// As onehem's Ruby makes it: Base64 with line ends.
fn execution((number, run): (i64, &Execution)) -> Element {
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text) + "\n";
    let result = vec![
        Element::text("COMMAND", ""),
        Element::text("STDOUT", encoded(&run.stdout)),
        Element::text("STDERR", encoded(&run.stderr)),
        Element::text("CODE", run.exit.unwrap_or_default()),
    ];
    let record = vec![
        Element::text("HOOK_ID", run.id),
        Element::text("EXECUTION_ID", number),
        Element::text("TIMESTAMP", run.timestamp),
        Element::text("ARGUMENTS", ""),
        Element::group("EXECUTION_RESULT", result),
    ];
    Element::group("HOOK_EXECUTION_RECORD", record)
}

/// The zone that every front-end is in, with the servers that high availability adds.
pub fn zone_pool(servers: u32) -> Element {
    let server = |id: u32| {
        let fields = vec![
            Element::text("ENDPOINT", format!("http://one-{id}.example.org:2633/RPC2")),
            Element::text("ID", id),
            Element::text("NAME", format!("one-{id}")),
        ];
        Element::group("SERVER", fields)
    };
    let zone = vec![
        Element::text("ID", 0),
        Element::text("NAME", "OpenNebula"),
        Element::group("SERVER_POOL", (0..servers).map(server).collect()),
    ];
    Element::group("ZONE_POOL", vec![Element::group("ZONE", zone)])
}

fn ids(name: &str, ids: impl Iterator<Item = i64>) -> Element {
    Element::group(name, ids.map(|id| Element::text("ID", id)).collect())
}

/// Identity and, but for short documents, the permissions; the number says whether the group may use the object.
fn owned(id: i64, name: &str, group_use: Option<i64>) -> Vec<Element> {
    let mut children = vec![
        Element::text("ID", id),
        Element::text("UID", 0),
        Element::text("GID", 0),
        Element::text("UNAME", "oneadmin"),
        Element::text("GNAME", "oneadmin"),
        Element::text("NAME", name),
    ];
    if let Some(group_use) = group_use {
        let bits = [
            ("OWNER_U", 1),
            ("OWNER_M", 1),
            ("OWNER_A", 0),
            ("GROUP_U", group_use),
            ("GROUP_M", 0),
            ("GROUP_A", 0),
            ("OTHER_U", 0),
            ("OTHER_M", 0),
            ("OTHER_A", 0),
        ];
        children.push(Element::group(
            "PERMISSIONS",
            bits.iter().map(|(name, bit)| Element::text(name, bit)).collect(),
        ));
    }
    children
}

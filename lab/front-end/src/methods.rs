//! The XML-RPC methods.

mod disks;

use std::sync::Arc;

use crate::documents::{self, Detail};
use crate::front_end::{FrontEnd, NotPossible, placement};
use crate::hooks;
use crate::images::{self, DriverAction};
use crate::lifecycle::Event;
use crate::log;
use crate::states::{Action, HostState, ImageState, LcmState, Recovery, VmState};
use crate::store::{Datastore, Host, Image, Machine, Records};
use crate::template::{Attribute, Template, Vector};
use crate::xml::Element;
use crate::xmlrpc::{Answer, Call, Code, Value};

/// Datastore attributes that oned copies into DISK (`INHERIT_DATASTORE_ATTR`, and the driver's own).
pub const INHERITED: [&str; 12] = [
    "ALLOW_ORPHANS",
    "CEPH_CONF",
    "CEPH_HOST",
    "CEPH_KEY",
    "CEPH_SECRET",
    "CEPH_TRASH",
    "CEPH_USER",
    "CLONE_TARGET",
    "DISK_TYPE",
    "LN_TARGET",
    "PERSISTENT_SNAPSHOTS",
    "POOL_NAME",
];

/// Attributes of a VM that belong to TEMPLATE; all others are the user's.
const VM_ATTRIBUTES: [&str; 22] = [
    "CONTEXT",
    "CPU",
    "CPU_COST",
    "CPU_MODEL",
    "DISK",
    "DISK_COST",
    "FEATURES",
    "GRAPHICS",
    "INPUT",
    "MEMORY",
    "MEMORY_COST",
    "NIC",
    "NIC_DEFAULT",
    "NUMA_NODE",
    "OS",
    "PCI",
    "RAW",
    "SNAPSHOT",
    "TEMPLATE_ID",
    "TM_MAD_SYSTEM",
    "TOPOLOGY",
    "VCPU",
];

struct Failure {
    code: Code,
    message: String,
    object: i64,
}

impl Failure {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), object: -1 }
    }

    fn no_exists(what: &str, id: i64) -> Self {
        Self { code: Code::NoExists, message: format!("Error getting {what} [{id}]."), object: id }
    }

    fn allocate(what: &str, why: &str) -> Self {
        Self::new(Code::Allocate, format!("Error allocating a new {what}. {why}"))
    }
}

type Outcome = Result<Value, Failure>;

/// Answers a call.
pub async fn answer(front_end: &Arc<FrontEnd>, call: &Call) -> Answer {
    let arguments = match call.arguments.split_first() {
        Some((Value::Text(session), rest)) if *session == front_end.session => Arguments(rest),
        _ if !METHODS.contains(&call.method.as_str()) => return Answer::unknown_method(&call.method),
        _ => {
            return Answer::Failure {
                message: format!("[{}] User couldn't be authenticated, aborting call.", call.method),
                code: Code::Authentication,
                object: -1,
            };
        }
    };
    if !METHODS.contains(&call.method.as_str()) {
        return Answer::unknown_method(&call.method);
    }
    match dispatch(front_end, &call.method, &arguments).await {
        Ok(value) => Answer::Success(value),
        Err(Failure { code, message, object }) => {
            Answer::Failure { message: format!("[{}] {message}", call.method), code, object }
        }
    }
}

const METHODS: [&str; 50] = [
    "lab.control",
    "one.datastore.allocate",
    "one.datastore.delete",
    "one.datastore.info",
    "one.datastore.update",
    "one.datastorepool.info",
    "one.hook.allocate",
    "one.hook.delete",
    "one.hook.info",
    "one.hook.update",
    "one.hookpool.info",
    "one.host.allocate",
    "one.host.delete",
    "one.host.info",
    "one.host.status",
    "one.hostpool.info",
    "one.image.allocate",
    "one.image.clone",
    "one.image.delete",
    "one.image.enable",
    "one.image.info",
    "one.image.persistent",
    "one.image.snapshotdelete",
    "one.image.snapshotflatten",
    "one.image.snapshotrevert",
    "one.image.update",
    "one.imagepool.info",
    "one.system.version",
    "one.user.info",
    "one.vm.action",
    "one.vm.allocate",
    "one.vm.attach",
    "one.vm.backup",
    "one.vm.deploy",
    "one.vm.detach",
    "one.vm.diskresize",
    "one.vm.disksaveas",
    "one.vm.disksnapshotcreate",
    "one.vm.disksnapshotdelete",
    "one.vm.disksnapshotrevert",
    "one.vm.info",
    "one.vm.migrate",
    "one.vm.recover",
    "one.vm.rename",
    "one.vm.restore",
    "one.vm.update",
    "one.vmpool.info",
    "one.vmpool.infoextended",
    "one.vmpool.infoset",
    "one.zonepool.info",
];

/// By what the method is about, the second word of its name.
async fn dispatch(front_end: &Arc<FrontEnd>, method: &str, arguments: &Arguments<'_>) -> Outcome {
    match method.split('.').nth(1).unwrap_or_default() {
        "control" => control(front_end, arguments).await,
        "vm" => vm_method(front_end, method, arguments),
        "vmpool" => vm_pool_method(front_end, method, arguments),
        "image" | "imagepool" => image_method(front_end, method, arguments),
        "datastore" | "datastorepool" => datastore_method(front_end, method, arguments),
        "host" | "hostpool" => host_method(front_end, method, arguments),
        "hook" | "hookpool" => hook_method(front_end, method, arguments),
        _ => site_method(front_end, method, arguments),
    }
}

/// A method of [`METHODS`] that its table lacks.
fn without_implementation() -> Outcome {
    Err(Failure::new(Code::Internal, "a method without an implementation"))
}

/// The front-end as a whole.
fn site_method(front_end: &FrontEnd, method: &str, arguments: &Arguments) -> Outcome {
    match method {
        "one.system.version" => Ok(Value::Text(crate::VERSION.to_owned())),
        "one.user.info" => match arguments.number(0)? {
            // there is one user; -1 asks for the caller's own
            -1 | 0 => Ok(Value::Text(documents::oneadmin().compact())),
            other => Err(Failure::no_exists("user", other)),
        },
        "one.zonepool.info" => Ok(Value::Text(documents::zone_pool(front_end.control().servers).compact())),
        _ => without_implementation(),
    }
}

fn vm_method(front_end: &Arc<FrontEnd>, method: &str, arguments: &Arguments) -> Outcome {
    match method {
        "one.vm.allocate" => allocate_vm(front_end, arguments),
        "one.vm.info" => show(front_end, arguments.number(0)?, "virtual machine", |records, id| {
            Some(documents::machine(records.machines.get(id)?, Detail::Full))
        }),
        "one.vm.update" => update_vm(front_end, arguments),
        "one.vm.rename" => rename_vm(front_end, arguments),
        "one.vm.action" => act_on_vm(front_end, arguments),
        "one.vm.recover" => recover_vm(front_end, arguments),
        "one.vm.deploy" => deploy(front_end, arguments),
        "one.vm.attach" => disks::attach(front_end, arguments),
        "one.vm.detach" => disks::detach(front_end, arguments),
        "one.vm.disksnapshotcreate" => disks::snapshot_create(front_end, arguments),
        "one.vm.disksnapshotrevert" => disks::snapshot_revert(front_end, arguments),
        "one.vm.disksnapshotdelete" => disks::snapshot_delete(front_end, arguments),
        "one.vm.diskresize" => disks::resize(front_end, arguments),
        "one.vm.disksaveas" => disks::save_as(front_end, arguments),
        "one.vm.backup" => disks::backup(front_end, arguments),
        "one.vm.restore" => disks::restore(front_end, arguments),
        "one.vm.migrate" => disks::migrate(front_end, arguments),
        _ => without_implementation(),
    }
}

fn vm_pool_method(front_end: &FrontEnd, method: &str, arguments: &Arguments) -> Outcome {
    match method {
        "one.vmpool.info" => machines(front_end, arguments, documents::machine_short),
        "one.vmpool.infoextended" => {
            machines(front_end, arguments, |machine| documents::machine(machine, Detail::Pool))
        }
        "one.vmpool.infoset" => machine_set(front_end, arguments),
        _ => without_implementation(),
    }
}

fn image_method(front_end: &Arc<FrontEnd>, method: &str, arguments: &Arguments) -> Outcome {
    let id = || arguments.number(0);
    match method {
        "one.image.allocate" => allocate_image(front_end, arguments),
        "one.image.info" => show(front_end, id()?, "image", |records, id| {
            Some(documents::image(records, records.images.get(id)?))
        }),
        "one.image.delete" => delete_image(front_end, id()?, arguments.truth(1).unwrap_or(false)),
        "one.image.clone" => clone_image(front_end, arguments),
        "one.image.enable" => enable_image(front_end, id()?, arguments.truth(1)?),
        "one.image.snapshotdelete" => snapshot_of_image(front_end, arguments, DriverAction::SnapDelete),
        "one.image.snapshotflatten" => snapshot_of_image(front_end, arguments, DriverAction::SnapFlatten),
        "one.image.snapshotrevert" => snapshot_of_image(front_end, arguments, DriverAction::SnapRevert),
        "one.image.update" => update_template(front_end, arguments, "image", |records, id| {
            Some(&mut records.images.get_mut(id)?.template)
        }),
        "one.image.persistent" => persistent_image(front_end, id()?, arguments.truth(1)?),
        "one.imagepool.info" => {
            let page = Page::of(arguments)?;
            let images = front_end
                .read(|records| page.cut(records.images.iter(), |image| documents::image(records, image)));
            Ok(pool("IMAGE_POOL", images))
        }
        _ => without_implementation(),
    }
}

fn datastore_method(front_end: &FrontEnd, method: &str, arguments: &Arguments) -> Outcome {
    let id = || arguments.number(0);
    match method {
        "one.datastore.allocate" => allocate_datastore(front_end, arguments),
        "one.datastore.update" => update_template(front_end, arguments, "datastore", |records, id| {
            Some(&mut records.datastores.get_mut(id)?.template)
        }),
        "one.datastore.delete" => {
            remove(front_end, id()?, "datastore", |records, id| records.datastores.remove(id).is_some())
        }
        "one.datastore.info" => {
            let folder = front_end.places().datastores;
            show(front_end, id()?, "datastore", |records, id| {
                Some(documents::datastore(records, records.datastores.get(id)?, &folder))
            })
        }
        "one.datastorepool.info" => {
            let folder = front_end.places().datastores;
            let datastores = front_end.read(|records| {
                Page::ALL.cut(records.datastores.iter(), |datastore| {
                    documents::datastore(records, datastore, &folder)
                })
            });
            Ok(pool("DATASTORE_POOL", datastores))
        }
        _ => without_implementation(),
    }
}

fn host_method(front_end: &FrontEnd, method: &str, arguments: &Arguments) -> Outcome {
    let id = || arguments.number(0);
    match method {
        "one.host.allocate" => allocate_host(front_end, arguments),
        "one.host.delete" => {
            remove(front_end, id()?, "host", |records, id| records.hosts.remove(id).is_some())
        }
        "one.host.status" => set_host_status(front_end, arguments),
        "one.host.info" => show(front_end, id()?, "host", |records, id| {
            Some(documents::host(records, records.hosts.get(id)?))
        }),
        "one.hostpool.info" => {
            let hosts = front_end
                .read(|records| Page::ALL.cut(records.hosts.iter(), |host| documents::host(records, host)));
            Ok(pool("HOST_POOL", hosts))
        }
        _ => without_implementation(),
    }
}

fn hook_method(front_end: &FrontEnd, method: &str, arguments: &Arguments) -> Outcome {
    let id = || arguments.number(0);
    match method {
        "one.hook.allocate" => allocate_hook(front_end, arguments),
        "one.hook.update" => update_template(front_end, arguments, "hook", |records, id| {
            Some(&mut records.hooks.get_mut(id)?.template)
        }),
        "one.hook.delete" => {
            remove(front_end, id()?, "hook", |records, id| records.hooks.remove(id).is_some())
        }
        "one.hook.info" => {
            let id = id()?;
            let log = hooks::executions(&front_end.settings.location, id);
            show(front_end, id, "hook", |records, id| {
                Some(documents::hook(records.hooks.get(id)?, Some(&log)))
            })
        }
        "one.hookpool.info" => {
            let hooks = front_end
                .read(|records| Page::ALL.cut(records.hooks.iter(), |hook| documents::hook(hook, None)));
            Ok(pool("HOOK_POOL", hooks))
        }
        _ => without_implementation(),
    }
}

struct Arguments<'a>(&'a [Value]);

impl Arguments<'_> {
    fn text(&self, at: usize) -> Result<&str, Failure> {
        match self.0.get(at) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(Failure::new(Code::Api, format!("Parameter {} should be a string", at + 1))),
        }
    }

    fn number(&self, at: usize) -> Result<i64, Failure> {
        match self.0.get(at) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(Failure::new(Code::Api, format!("Parameter {} should be an integer", at + 1))),
        }
    }

    fn truth(&self, at: usize) -> Result<bool, Failure> {
        match self.0.get(at) {
            Some(Value::Truth(truth)) => Ok(*truth),
            _ => Err(Failure::new(Code::Api, format!("Parameter {} should be a boolean", at + 1))),
        }
    }
}

/// Which objects of a pool are wanted.
struct Page {
    start: i64,
    end: i64,
}

impl Page {
    const ALL: Self = Self { start: -1, end: -1 };

    fn of(arguments: &Arguments) -> Result<Self, Failure> {
        if arguments.number(0)? < -4 {
            return Err(Failure::new(Code::Api, "Incorrect filter_flag"));
        }
        Ok(Self { start: arguments.number(1)?, end: arguments.number(2)? })
    }

    /// Newest first. `end` below -1 asks for `-end` objects from offset `start`, else both are ids.
    fn cut<'a, T: 'a>(
        &self,
        objects: impl DoubleEndedIterator<Item = (i64, &'a T)>,
        show: impl Fn(&'a T) -> Element,
    ) -> Vec<Element> {
        let newest_first = objects.rev();
        let Self { start, end } = *self;
        if end < -1 {
            let offset = usize::try_from(start).unwrap_or(0);
            let count = usize::try_from(end.unsigned_abs()).unwrap_or(usize::MAX);
            return newest_first.skip(offset).take(count).map(|(_, object)| show(object)).collect();
        }
        newest_first
            .filter(|(id, _)| start == -1 || (*id >= start && (end == -1 || *id <= end)))
            .map(|(_, object)| show(object))
            .collect()
    }
}

fn pool(name: &str, elements: Vec<Element>) -> Value {
    Value::Text(Element::group(name, elements).compact())
}

fn show(
    front_end: &FrontEnd,
    id: i64,
    what: &str,
    document: impl FnOnce(&Records, i64) -> Option<Element>,
) -> Outcome {
    front_end
        .read(|records| document(records, id))
        .map(|element| Value::Text(element.compact()))
        .ok_or_else(|| Failure::no_exists(what, id))
}

/// Takes an object out.
fn remove(
    front_end: &FrontEnd,
    id: i64,
    what: &str,
    take_out: impl FnOnce(&mut Records, i64) -> bool,
) -> Outcome {
    let was_there = front_end.change(|records, _| take_out(records, id));
    if was_there { Ok(Value::Number(id)) } else { Err(Failure::no_exists(what, id)) }
}

/// Merges a template into the object's own, or puts it in its place.
fn update_template(
    front_end: &FrontEnd,
    arguments: &Arguments,
    what: &str,
    template_of: impl FnOnce(&mut Records, i64) -> Option<&mut Template>,
) -> Outcome {
    let id = arguments.number(0)?;
    let new = parse(arguments.text(1)?)?;
    let append = arguments.number(2)? == 1;
    front_end.change(|records, _| {
        let template = template_of(records, id).ok_or_else(|| Failure::no_exists(what, id))?;
        merge(template, new, append);
        Ok(Value::Number(id))
    })
}

fn parse(text: &str) -> Result<Template, Failure> {
    Template::parse(text).map_err(|error| Failure::new(Code::Internal, format!("Parse error: {error}")))
}

fn merge(template: &mut Template, new: Template, append: bool) {
    if append {
        template.merge(new);
    } else {
        *template = new;
    }
}

fn no_vm(id: i64) -> Failure {
    Failure::no_exists("virtual machine", id)
}

impl NotPossible {
    fn with(self, vm: i64, before: &str) -> Failure {
        match self {
            Self::NoExists => no_vm(vm),
            Self::Refused(why) => Failure::new(Code::Action, format!("{before}{why}")),
        }
    }
}

fn happen(front_end: &Arc<FrontEnd>, vm: i64, event: Event) -> Result<Value, NotPossible> {
    front_end.happen(vm, event).map(|()| Value::Number(vm))
}

/// `lab.control(name, value)`
async fn control(front_end: &FrontEnd, arguments: &Arguments<'_>) -> Outcome {
    let text = format!("{}={}", arguments.text(0)?, arguments.text(1)?);
    let request = text.parse().map_err(|error: String| Failure::new(Code::Api, error))?;
    front_end.obey(request).await;
    Ok(Value::Truth(true))
}

fn machines(front_end: &FrontEnd, arguments: &Arguments, document: impl Fn(&Machine) -> Element) -> Outcome {
    let page = Page::of(arguments)?;
    let state = arguments.number(3)?;
    if !(-2..=VmState::CloningFailure.code()).contains(&state) {
        return Err(Failure::new(Code::Api, format!("Incorrect state filter {state}")));
    }
    let wanted = |machine: &Machine| match state {
        -2 => true,
        -1 => machine.state != VmState::Done,
        _ => machine.state.code() == state,
    };
    let elements = front_end.read(|records| {
        let matching: Vec<_> = records.machines.iter().filter(|(_, machine)| wanted(machine)).collect();
        page.cut(matching.into_iter(), document)
    });
    Ok(pool("VM_POOL", elements))
}

fn machine_set(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let ids: Vec<i64> = arguments.text(0)?.split(',').filter_map(|id| id.trim().parse().ok()).collect();
    let extended = arguments.truth(1)?;
    let elements = front_end.read(|records| {
        let matching: Vec<_> = records.machines.iter().filter(|(id, _)| ids.contains(id)).collect();
        Page::ALL.cut(matching.into_iter(), |machine| {
            if extended {
                documents::machine(machine, Detail::Pool)
            } else {
                documents::machine_short(machine)
            }
        })
    });
    Ok(pool("VM_POOL", elements))
}

fn update_vm(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let id = arguments.number(0)?;
    let template = Template::parse(arguments.text(1)?).map_err(|error| Failure::new(Code::Action, error))?;
    let append = match arguments.number(2)? {
        0 => false,
        1 => true,
        _ => return Err(Failure::new(Code::Api, "Wrong update type")),
    };
    front_end.change(|records, _| {
        let machine = records.machines.get_mut(id).ok_or_else(|| no_vm(id))?;
        merge(&mut machine.user_template, template, append);
        Ok(Value::Number(id))
    })
}

fn rename_vm(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let (id, name) = (arguments.number(0)?, arguments.text(1)?.to_owned());
    front_end.change(|records, _| {
        records.machines.get_mut(id).map(|machine| machine.name = name).ok_or_else(|| no_vm(id))
    })?;
    Ok(Value::Number(id))
}

fn act_on_vm(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let name = arguments.text(0)?;
    let vm = arguments.number(1)?;
    let action = Action::from_name(name)
        .filter(|action| !matches!(action, Action::None | Action::Monitor | Action::Delete))
        .ok_or_else(|| Failure::new(Code::Action, format!("Action \"{name}\" is not supported")))?;
    happen(front_end, vm, Event::Asked(action))
        .map_err(|refusal| refusal.with(vm, &format!("Error performing action \"{name}\": ")))
}

fn recover_vm(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let vm = arguments.number(0)?;
    let recovery = Recovery::from_code(arguments.number(1)?)
        .ok_or_else(|| Failure::new(Code::Action, "Wrong recovery operation code"))?;
    happen(front_end, vm, Event::Recover(recovery)).map_err(|refusal| refusal.with(vm, ""))
}

fn deploy(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let (vm, host) = (arguments.number(0)?, arguments.number(1)?);
    let datastore = arguments.number(3).ok().filter(|id| *id >= 0);
    let place = front_end.read(|records| {
        let machine = records.machines.get(vm).ok_or_else(|| no_vm(vm))?;
        placement(records, machine, Some(host), datastore).ok_or_else(|| Failure::no_exists("host", host))
    })?;
    front_end.place(vm, place).map(|()| Value::Number(vm)).map_err(|refusal| refusal.with(vm, ""))
}

fn allocate_vm(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let mut user = parse(arguments.text(0)?)?;
    // VirtualMachinePool::allocate (src/vm/VirtualMachinePool.cc): the attribute counts as well
    let attribute = user.get("SUBMIT_ON_HOLD").is_some_and(|yes| yes.eq_ignore_ascii_case("yes"));
    let hold = arguments.truth(1).unwrap_or(false) || attribute;
    user.remove("SUBMIT_ON_HOLD");
    let id = front_end.change(|records, events| {
        let id = records.machines.next_id();
        let name = user.get("NAME").map_or_else(|| format!("one-{id}"), str::to_owned);
        user.remove("NAME");
        let mut template = user.split(|name| VM_ATTRIBUTES.contains(&name));
        let images = set_up_template(records, id, &mut template)
            .map_err(|why| Failure::allocate("virtual machine", &why))?;
        let folder = log::vm_directory(&front_end.settings.location, id);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(Code::Internal, format!("{}: {error}", folder.display())))?;
        records.machines.insert(|id| Machine {
            id,
            name,
            state: VmState::Init,
            lcm_state: LcmState::LcmInit,
            prev_state: VmState::Init,
            prev_lcm_state: LcmState::LcmInit,
            last_poll: 0,
            stime: log::now(),
            etime: 0,
            deploy_id: String::new(),
            template,
            user_template: user,
            history: vec![],
            snapshots: Default::default(),
            operation: None,
        });
        for (image, disk) in images {
            disks::take_snapshots(records, image, id, disk);
        }
        if let Some(machine) = records.machines.get_mut(id) {
            if hold {
                machine.template.set("SUBMIT_ON_HOLD", "YES");
            }
            machine.state = if hold { VmState::Hold } else { VmState::Pending };
            front_end.commit(machine, events);
        }
        Ok(id)
    })?;
    front_end.schedule();
    Ok(Value::Number(id))
}

/// Completes the template of a new VM and takes its images.
/// The images with the numbers of their disks.
fn set_up_template(
    records: &mut Records,
    vm: i64,
    template: &mut Template,
) -> Result<Vec<(i64, i64)>, String> {
    template.set_default("CPU", "0.1");
    template.set_default("MEMORY", "96");
    let os = template.remove("OS").into_iter().next();
    let mut os = if let Some(Attribute::Vector(os)) = os { os } else { Vector::default() };
    os.set_default("UUID", uuid());
    template.add("OS", Attribute::Vector(os));
    let system = template.get("TM_MAD_SYSTEM").map(str::to_owned);
    let mut taken = Vec::new();
    let mut disks = Vec::new();
    for (number, attribute) in template.remove("DISK").into_iter().enumerate() {
        let Attribute::Vector(mut disk) = attribute else {
            return Err(format!("DISK {number}: not a vector attribute"));
        };
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let letter = char::from(b'a' + u8::try_from(number).unwrap_or(25).min(25));
        disk.set_default("TARGET", format!("vd{letter}"));
        if let Some(image) = set_up_disk(records, &mut disk, number)? {
            taken.push((image, number));
        }
        disks.push(disk);
    }
    // a TM_MAD_SYSTEM asked for by the user goes into the disks; the drivers look for `clone.<it>` then
    let first = disks.iter().find_map(|disk| disk.get("TM_MAD").map(str::to_owned));
    if let Some(system) = &system {
        disks.iter_mut().filter(|disk| disk.get("TM_MAD") != Some(system)).for_each(|disk| {
            disk.set("TM_MAD_SYSTEM", system);
        });
    } else if let Some(first) = first {
        template.set("TM_MAD_SYSTEM", first);
    }
    for context in template.vectors_mut("CONTEXT") {
        context.set("DISK_ID", disks.len());
        context.set_default("TARGET", "sda");
    }
    for disk in disks {
        template.add("DISK", Attribute::Vector(disk));
    }
    template.set("AUTOMATIC_DS_REQUIREMENTS", "(\"CLUSTERS/ID\" @> 0)");
    template.set("AUTOMATIC_NIC_REQUIREMENTS", "(\"CLUSTERS/ID\" @> 0)");
    template.set("AUTOMATIC_REQUIREMENTS", "(CLUSTER_ID = 0) & !(PIN_POLICY = PINNED)");
    template.set("VMID", vm);
    for (image, _) in &taken {
        take_image(records, *image, vm);
    }
    Ok(taken)
}

/// Completes a disk; its image, if it has one.
fn set_up_disk(records: &Records, disk: &mut Vector, number: i64) -> Result<Option<i64>, String> {
    disk.set("DISK_ID", number);
    disk.set_default("DEV_PREFIX", "vd");
    disk.set("CLUSTER_ID", 0);
    disk.set("READONLY", "NO");
    disk.set("DISK_SNAPSHOT_TOTAL_SIZE", 0);
    let image = image_of(records, disk)?;
    match image {
        Some(image) => merge_image(records, image, disk).map_err(|why| format!("DISK {number}: {why}"))?,
        None => {
            disk.set("SAVE", "NO");
            disk.set_default("TYPE", "fs");
            disk.set_default("FORMAT", "raw");
            disk.set_default("ORIGINAL_SIZE", disk.get("SIZE").unwrap_or("0").to_owned());
        }
    }
    Ok(image)
}

fn image_of(records: &Records, disk: &Vector) -> Result<Option<i64>, String> {
    if let Some(id) = disk.get("IMAGE_ID") {
        let id = id.parse().map_err(|_| format!("IMAGE_ID {id} is no number"))?;
        return Ok(Some(id));
    }
    let Some(name) = disk.get("IMAGE") else { return Ok(None) };
    let found = records.images.iter().find(|(_, image)| image.name == name).map(|(id, _)| id);
    found.map(Some).ok_or_else(|| format!("User 0 does not own an image with name: {name}"))
}

fn merge_image(records: &Records, id: i64, disk: &mut Vector) -> Result<(), String> {
    let image =
        records.images.get(id).ok_or_else(|| format!("Cannot acquire image {id}, it does not exist"))?;
    let in_use = match image.state {
        ImageState::Ready | ImageState::Used => None,
        ImageState::UsedPers if image.is_shareable() => None,
        ImageState::UsedPers | ImageState::LockedUsedPers => {
            Some("it is persistent and already in use".to_owned())
        }
        // oned lets the VM wait for it (CLONING), unless it is attached
        ImageState::Locked | ImageState::LockedUsed => Some("it is locked".to_owned()),
        other => Some(format!("it is in state: {}", other.name())),
    };
    if let Some(why) = in_use {
        return Err(format!("Cannot acquire image {id}, {why}"));
    }
    let datastore =
        records.datastores.get(image.datastore_id).ok_or_else(|| format!("image {id} has no datastore"))?;
    disk.set("IMAGE_ID", id);
    disk.set("IMAGE", &image.name);
    disk.set("IMAGE_STATE", if image.persistent { ImageState::UsedPers } else { ImageState::Used }.code());
    disk.set("SOURCE", &image.source);
    disk.set("SIZE", disk.get("SIZE").map_or_else(|| image.size.to_string(), str::to_owned));
    disk.set("ORIGINAL_SIZE", image.size);
    disk.set("FORMAT", &image.format);
    disk.set_default("DRIVER", image.template.get("DRIVER").unwrap_or("raw"));
    disk.set("CLONE", if image.persistent { "NO" } else { "YES" });
    disk.set("SAVE", if image.persistent { "YES" } else { "NO" });
    if image.persistent {
        disk.set("PERSISTENT", "YES");
    }
    if image.is_shareable() {
        disk.set("SHAREABLE", "YES");
    }
    disk.set("DATASTORE", &datastore.name);
    disk.set("DATASTORE_ID", datastore.id);
    disk.set("TM_MAD", datastore.tm_mad());
    for name in INHERITED {
        if let Some(value) = datastore.template.get(name) {
            disk.set(name, value);
        }
    }
    disk.set("TYPE", datastore.template.get("DISK_TYPE").unwrap_or("FILE"));
    Ok(())
}

fn take_image(records: &mut Records, id: i64, vm: i64) {
    let Some(image) = records.images.get_mut(id) else { return };
    image.vms.push(vm);
    image.set_state(if image.persistent { ImageState::UsedPers } else { ImageState::Used });
}

fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn allocate_image(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let image = new_image(parse(arguments.text(0)?)?, arguments.number(1)?)?;
    let (registered, copied) = (image.state == ImageState::Ready, !image.path.is_empty());
    let id = front_end.change(|records, _| add_image(records, image))?;
    if !registered {
        images::drive_in_background(
            front_end,
            id,
            if copied { DriverAction::Cp } else { DriverAction::Mkfs },
        );
    }
    Ok(Value::Number(id))
}

/// The image that a template asks for; READY at once if it says where the image is.
fn new_image(mut template: Template, datastore_id: i64) -> Result<Image, Failure> {
    let mut take = |name: &str| {
        let value = template.get(name).map(str::to_owned);
        template.remove(name);
        value
    };
    let fail = |why: &str| Failure::allocate("image", why);
    let name = take("NAME").ok_or_else(|| fail("No NAME in template."))?;
    let source = take("SOURCE");
    let persistent = take("PERSISTENT").is_some_and(|yes| yes.eq_ignore_ascii_case("yes"));
    let size = take("SIZE").map(|size| size.parse::<i64>()).transpose();
    let size = size.map_err(|_| fail("SIZE is no number of megabytes."))?;
    let path = take("PATH").unwrap_or_default();
    let format = take("FORMAT").unwrap_or_else(|| "raw".to_owned());
    let kind = take("TYPE").unwrap_or_else(|| "DATABLOCK".to_owned()).to_uppercase();
    if source.is_none() && size.is_none() {
        return Err(fail("SIZE or SOURCE is needed."));
    }
    template.set_default("DEV_PREFIX", "vd");
    let state = if source.is_some() { ImageState::Ready } else { ImageState::Locked };
    Ok(Image {
        id: -1, // its number and the two times come with its place among the others
        name,
        kind: match kind.as_str() {
            "OS" => 0,
            "CDROM" => 1,
            _ => 2,
        },
        disk_type: 0,
        persistent,
        regtime: 0,
        modtime: 0,
        source: source.unwrap_or_default(), // else the driver tells where it has put the image
        path,
        format,
        size: size.unwrap_or(0),
        state,
        prev_state: state,
        datastore_id,
        vms: vec![],
        cloning_id: None,
        clones: vec![],
        snapshots: Default::default(),
        target_snapshot: None,
        template,
    })
}

/// Its number, if its datastore takes it and nothing has its name.
fn add_image(records: &mut Records, image: Image) -> Result<i64, Failure> {
    let fail = |why: &str| Failure::allocate("image", why);
    let datastore = records
        .datastores
        .get(image.datastore_id)
        .ok_or_else(|| Failure::no_exists("datastore", image.datastore_id))?;
    if datastore.is_system() {
        return Err(fail("New images cannot be allocated in a system datastore."));
    }
    if records.images.iter().any(|(_, other)| other.name == image.name) {
        return Err(fail(&format!("NAME is already taken by IMAGE {}.", image.name)));
    }
    let disk_type = if datastore.template.get("DISK_TYPE") == Some("RBD") { 3 } else { 0 };
    let now = log::now();
    Ok(records.images.insert(|id| Image { id, disk_type, regtime: now, modtime: now, ..image }))
}

/// `ImageManager::delete_image` (src/image/ImageManagerActions.cc): the datastore's driver removes what is stored.
fn delete_image(front_end: &Arc<FrontEnd>, id: i64, force: bool) -> Outcome {
    let driven = front_end.change(|records, _| {
        let image = records.images.get_mut(id).ok_or_else(|| Failure::no_exists("image", id))?;
        let refuse = |why: String| Err(Failure::new(Code::Action, format!("Cannot delete image. {why}")));
        if image.state == ImageState::Clone {
            return refuse(format!("There are {} active clone operations.", image.clones.len()));
        }
        if !image.vms.is_empty() {
            return refuse(format!("There are {} VMs using it.", image.vms.len()));
        }
        if image.source.is_empty() {
            records.images.remove(id);
            return Ok(false);
        }
        if force {
            image.template.set("FORCE_DELETE", "YES");
        }
        image.set_state(ImageState::Delete);
        Ok(true)
    })?;
    if driven {
        images::drive_in_background(front_end, id, DriverAction::Rm);
    }
    Ok(Value::Number(id))
}

/// `ImageAPI::clone` (src/rm/api/ImageAPI.cc) and `ImagePool::allocate`: the new image has the old one's source as PATH.
fn clone_image(front_end: &Arc<FrontEnd>, arguments: &Arguments) -> Outcome {
    let source = arguments.number(0)?;
    let name = arguments.text(1)?.to_owned();
    let datastore_id = arguments.number(2).unwrap_or(-1);
    let id = front_end.change(|records, _| {
        let image = records.images.get(source).ok_or_else(|| Failure::no_exists("image", source))?;
        if !image.snapshots.is_empty() {
            return Err(Failure::new(Code::Action, "Cannot clone images with snapshots"));
        }
        if !matches!(image.state, ImageState::Ready | ImageState::Used | ImageState::Clone) {
            let why = format!("Cannot clone image in state: {}", image.state.name());
            return Err(Failure::allocate("image", &why));
        }
        if records.images.iter().any(|(_, image)| image.name == name) {
            return Err(Failure::allocate("image", &format!("NAME is already taken by IMAGE {name}.")));
        }
        let mut copy = image.clone();
        if datastore_id >= 0 {
            copy.datastore_id = datastore_id;
        }
        (copy.persistent, copy.name, copy.path) = (false, name, std::mem::take(&mut copy.source));
        (copy.vms, copy.clones, copy.cloning_id) = (vec![], vec![], Some(source));
        (copy.regtime, copy.modtime) = (log::now(), log::now());
        copy.set_state(ImageState::Locked);
        let id = records.images.insert(|id| Image { id, ..copy });
        if let Some(image) = records.images.get_mut(source) {
            image.clones.push(id);
            if image.state == ImageState::Ready {
                image.set_state(if image.persistent { ImageState::Clone } else { ImageState::Used });
            }
        }
        Ok(id)
    })?;
    images::drive_in_background(front_end, id, DriverAction::Clone);
    Ok(Value::Number(id))
}

/// `ImageManager::enable_image` (src/image/ImageManagerActions.cc).
fn enable_image(front_end: &FrontEnd, id: i64, enable: bool) -> Outcome {
    front_end.change(|records, _| {
        let image = records.images.get_mut(id).ok_or_else(|| Failure::no_exists("image", id))?;
        match (enable, image.state) {
            (true, ImageState::Disabled) => image.set_state(ImageState::Ready),
            (true, ImageState::Error) => image.unlock(),
            (false, ImageState::Ready | ImageState::Error) => image.set_state(ImageState::Disabled),
            (true, ImageState::Ready) | (false, ImageState::Disabled) => {}
            (_, state) => {
                let why = format!("Image cannot be in state {}.", state.name());
                return Err(Failure::new(Code::Internal, why));
            }
        }
        Ok(Value::Number(id))
    })
}

/// `ImageManager::delete_snapshot` and the like (src/image/ImageManagerActions.cc): of an image that no VM uses.
fn snapshot_of_image(front_end: &Arc<FrontEnd>, arguments: &Arguments, action: DriverAction) -> Outcome {
    let (id, snapshot) = (arguments.number(0)?, arguments.number(1)?);
    front_end.change(|records, _| {
        let image = records.images.get_mut(id).ok_or_else(|| Failure::no_exists("image", id))?;
        let refusal = if image.state != ImageState::Ready {
            Some(format!("Cannot change snapshots in state {}", image.state.name()))
        } else if action == DriverAction::SnapDelete {
            image.snapshots.keeps(snapshot).map(str::to_owned)
        } else {
            (!image.snapshots.has(snapshot)).then(|| "Snapshot does not exist".to_owned())
        };
        if let Some(why) = refusal {
            return Err(Failure::new(Code::Action, why));
        }
        image.target_snapshot = Some(snapshot);
        image.set_state(ImageState::Locked);
        Ok(())
    })?;
    images::drive_in_background(front_end, id, action);
    Ok(Value::Number(id))
}

fn persistent_image(front_end: &FrontEnd, id: i64, persistent: bool) -> Outcome {
    front_end.change(|records, _| {
        let image = records.images.get_mut(id).ok_or_else(|| Failure::no_exists("image", id))?;
        if image.state != ImageState::Ready && image.persistent != persistent {
            let why = format!("Could not change persistent state: image is in state {}", image.state.name());
            return Err(Failure::new(Code::Internal, why));
        }
        image.persistent = persistent;
        Ok(Value::Number(id))
    })
}

fn allocate_datastore(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let mut template = parse(arguments.text(0)?)?;
    let fail = |why: &str| Failure::allocate("datastore", why);
    let name = template.get("NAME").map(str::to_owned).ok_or_else(|| fail("No NAME in template."))?;
    template.remove("NAME");
    let driver = template.get("TM_MAD").map(str::to_owned).ok_or_else(|| fail("No TM_MAD in template."))?;
    template.set_default("TYPE", "IMAGE_DS");
    let defaults: &[(&str, &str)] = match (template.get("TYPE"), driver.as_str()) {
        (Some("SYSTEM_DS"), _) => &[
            ("DISK_TYPE", "FILE"),
            ("DS_LIVE_MIGRATE", "NO"),
            ("DS_MIGRATE", "NO"),
            ("DS_MIGRATE_SNAP", "NO"),
            ("SHARED", "YES"),
        ],
        (_, "ceph") => &[
            ("CLONE_TARGET", "SELF"),
            ("CLONE_TARGET_SSH", "SYSTEM"),
            ("DISK_TYPE", "RBD"),
            ("DISK_TYPE_SSH", "FILE"),
            ("DRIVER", "raw"),
            ("DS_MAD", "ceph"),
            ("LN_TARGET", "NONE"),
            ("LN_TARGET_SSH", "SYSTEM"),
            ("TM_MAD_SYSTEM", "ssh"),
        ],
        _ => &[("CLONE_TARGET", "SYSTEM"), ("DISK_TYPE", "FILE"), ("DS_MAD", "fs"), ("LN_TARGET", "NONE")],
    };
    let common = [
        ("ALLOW_ORPHANS", "mixed"),
        ("PERSISTENT_SNAPSHOTS", "YES"),
        ("RESTRICTED_DIRS", "/"),
        ("SAFE_DIRS", "/var/tmp"),
    ];
    defaults.iter().chain(&common).for_each(|(name, value)| template.set_default(name, value));
    let id = front_end.change(|records, _| {
        if records.datastores.iter().any(|(_, datastore)| datastore.name == name) {
            return Err(fail(&format!("NAME is already taken by DATASTORE {name}.")));
        }
        Ok(records.datastores.insert(|id| Datastore { id, name, template }))
    })?;
    let folder = front_end.settings.location.join("var/datastores").join(id.to_string());
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(Code::Internal, format!("{}: {error}", folder.display())))?;
    Ok(Value::Number(id))
}

fn allocate_host(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let name = arguments.text(0)?.to_owned();
    let (im_mad, vm_mad) = (arguments.text(1)?.to_owned(), arguments.text(2)?.to_owned());
    front_end.change(|records, _| {
        if records.hosts.iter().any(|(_, host)| host.name == name) {
            return Err(Failure::allocate("host", &format!("NAME is already taken by HOST {name}.")));
        }
        Ok(Value::Number(records.hosts.insert(|id| Host {
            id,
            name,
            state: HostState::Init,
            prev_state: HostState::Init,
            im_mad,
            vm_mad,
            monitored: 0,
        })))
    })
}

fn set_host_status(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let id = arguments.number(0)?;
    // HostAPI::status of 7.4.0, src/rm/api/HostAPI.cc
    let state = match arguments.number(1)? {
        0 => HostState::Init,
        1 => HostState::Disabled,
        2 => HostState::Offline,
        other => return Err(Failure::new(Code::Api, format!("Wrong status {other}"))),
    };
    front_end
        .change(|records, _| records.hosts.get_mut(id).map(|host| host.state = state))
        .map(|()| Value::Number(id))
        .ok_or_else(|| Failure::no_exists("host", id))
}

fn allocate_hook(front_end: &FrontEnd, arguments: &Arguments) -> Outcome {
    let template = parse(arguments.text(0)?)?;
    let name = template.get("NAME").unwrap_or_default().to_owned();
    front_end.change(|records, _| {
        if records.hooks.iter().any(|(_, hook)| hook.name == name) {
            let why = format!("NAME is already taken by HOOK {name}.");
            return Err(Failure::new(Code::Internal, why));
        }
        let hook = hooks::define(records.hooks.next_id(), template)
            .map_err(|why| Failure::new(Code::Internal, why))?;
        Ok(Value::Number(records.hooks.insert(|_| hook)))
    })
}

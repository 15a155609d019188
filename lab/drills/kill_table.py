"""`kill -9` at each external call of each operation, then the same operation again: the end is that of a run without a kill."""
import base64
import concurrent.futures
import contextlib
import glob
import json
import os
import re
import subprocess
import time
import traceback
import xmlrpc.client

from harness.laboratory import LabError, run as run_program, wait_until

from .calls import comparable, masked
from .faults import Faults

MODES = ("journal", "snapshot")
WHEN = ("before", "after")
OPERATIONS = ("gate", "release", "rehome", "failover", "takeover", "lost-restore", "lost-drop", "upkeep", "set-aside", "failover-force")
# those at which reconcile or a promotion by force is at work, which reaches the other operations' images or the daemon
ALONE = ("set-aside", "failover-force")
# mirror snapshots do not tell that nothing is missing, so there upkeep is set-aside
NAMES = ["%s/%s" % (operation, mode) for mode in MODES for operation in OPERATIONS if (operation, mode) != ("upkeep", "snapshot")]
NOTE = "onemirror.lost"  # what a copy that was set aside says of itself
LIMIT = 120  # external calls of one operation that are tried
# calls that change something; after any other one it is as before the next one
CHANGES = re.compile(r"rbd mirror image (promote|demote|resync|snapshot|disable)|rbd image-meta (set|remove)|rados lock (get|break)|"
                     r"rbd (lock rm|rename|feature disable|snap unprotect|snap rm|rm)|one\.(vm\.(action|update)|image\.allocate)")


STARTS = ("failover", "takeover", "failover-force")  # these start the VM on the other site


class Subject:
    """A VM with one disk, off on both sites; the copy of `here` is primary. Operations change sides."""

    def __init__(self, lab, mode, forces):
        self.lab, self.mode, self.forces = lab, mode, forces
        self.machine = lab.vm_with_one_disk("killed-%s-%x" % (mode, time.time_ns()), mode)
        (self.image,) = self.machine.images.values()
        self.machine.register_on_b()
        lab.a.wait_records(self.machine.home, 20)
        lab.a.action("poweroff", self.machine.home)
        lab.a.wait_vm(self.machine.home, "POWEROFF")
        away = self.machine.start_on_b()
        lab.b.wait_vm(away, "RUNNING")
        lab.b.wait_records(away, 10)
        lab.b.action("poweroff", away)
        lab.b.wait_vm(away, "POWEROFF")
        self.vms = {"site-a": self.machine.home, "site-b": away}
        self.here = lab.b  # where the copy is primary

    @property
    def there(self):
        return self.lab.other(self.here)

    def context(self, site):
        vm = self.vms[site.name]
        disk = "host:%s/var/datastores/100/%d/disk.0" % (site.location, vm)
        return ["tm", "--stock", "/bin/true", "context", "context.sh", disk, str(vm), "100"]

    # ------------------------------------------------------------ operations: (before), command, (after)

    def command(self, operation):
        """Where the operation runs, and the words after `onemirror`."""
        here, there = self.here, self.there
        return {
            "gate": (there, self.context(there)),
            # what reconcile does, for the images of this VM only: others are at work beside it
            "release": (here, ["hook", "poweroff"]),
            "upkeep": (here, ["hook", "poweroff"]),
            "set-aside": (here, ["reconcile"]),
            "failover": (there, ["failover", str(self.vms[there.name])]),
            # of a site whose cluster answers, and of one that does not answer at all
            "takeover": (there, ["failover", str(self.vms[there.name]), "--force", "--reason", "drill"]),
            "failover-force": (there, ["failover", str(self.vms[there.name]), "--force", "--reason", "drill"]),
            "rehome": (here, ["rehome", str(self.vms[here.name]), "--to", there.name]),
        }[operation]

    def document(self, site):
        """What onehem gives a hook of the VM on its standard input."""
        with open(site.auth_file) as file:
            session = file.read().strip()
        answer = xmlrpc.client.ServerProxy(site.endpoint).one.vm.info(session, self.vms[site.name], False)
        return base64.b64encode(answer[1].encode()).decode()

    def upkeep(self, site):
        program = os.path.join(site.location, "bin/onemirror")
        run_program([program, "hook", "poweroff"], check=False, env=site.environment, input=self.document(site))

    def before(self, operation):
        """Brings the copies to where the operation begins."""
        # what is at home is not released
        home = self.there if operation == "release" else self.here
        self.here.onemirror("rehome", self.vms[self.here.name], "--to", home.name)
        wait_until("the home to arrive", self.arrived, 60, 0.5)
        if operation in ("upkeep", "set-aside"):
            # as after a failover by force while this site was lost
            self.there.rbd("mirror", "image", "promote", self.image, "--force")
            newer = "%d:%s:open:%s" % (
                self.sequence(self.here) + 1000, self.there.name, self.there.info(self.image)["mirroring"]["global_id"])
            wait_until("the forced copy to be writable", lambda: self.there.rbd(
                "image-meta", "set", self.image, "onemirror.handoff", newer, check=False).returncode == 0, 60, 0.5)
            if self.mode == "snapshot":
                # which is what carries the mark over
                self.there.rbd("mirror", "image", "snapshot", self.image)
        if operation == "set-aside":
            # an entry of the journal that the other site will never read
            self.here.rbd("image-meta", "set", self.image, "drill", "unsent")

    def after(self, operation):
        """Brings the copies, and what is known of them here, to where the next operation begins."""
        self.end(operation)
        # a run that is killed leaves its locks, and the next operation would be told to try again
        wait_until("the locks to run out", lambda: not any(site.lock_holders(self.image) for site in self.lab.sites), 180, 1)

    def end(self, operation):
        if operation == "rehome":
            return
        if operation == "release":
            self.there.onemirror(*self.context(self.there))
        if operation == "failover-force":
            # the copy that was passed over is stale
            wait_until("the old copy to be seen to", self.followed_by(self.there, upkeep=self.here), 120, 1)
        for site, name in self.kept():
            site.rbd("rm", name)
        if operation in STARTS:
            vm = self.vms[self.there.name]
            self.there.action("poweroff", vm)
            self.there.wait_vm(vm, "POWEROFF")
        self.here = self.there
        wait_until("the other copy to follow", self.followed_by(self.here, upkeep=None), 120, 0.5)

    def followed_by(self, site, upkeep):
        def follows():
            if upkeep:
                self.upkeep(upkeep)
            other = self.lab.other(site)
            token = site.token(self.image)
            return token and ":open:" in token and other.token(self.image) == token and other.is_primary(self.image) is False
        return follows

    def sequence(self, site):
        return int((site.token(self.image) or "0").split(":")[0])

    # ------------------------------------------------------------ the end state

    def rested(self, operation):
        """Waits until what the operation set off has come to rest."""
        if operation in ("upkeep", "set-aside"):
            wait_until("the stale copy to be copied again", self.followed_by(self.there, upkeep=self.here), 120, 1)
        if operation in STARTS:
            self.there.wait_vm(self.vms[self.there.name], "RUNNING", timeout=60)
        if operation in ("gate", "release", "failover", "takeover", "rehome"):
            wait_until("the marks to arrive", self.arrived, 60, 0.5)

    def kept(self):
        """What was set aside of the image, on both sites."""
        pool, _, name = self.image.partition("/")
        return [(site, "%s/%s" % (pool, found)) for site in self.lab.sites
                for found in site.rbd("ls", pool).stdout.split() if found.startswith(name + ".lost-")]

    def marks(self, site):
        """What onemirror has written on the copy there."""
        found = site.rbd("image-meta", "list", self.image, "--format", "json", check=False).stdout
        metadata = json.loads(found or "{}")
        return {key: value for key, value in metadata.items() if key.startswith("onemirror.")}

    def arrived(self):
        """Whether both copies have the same marks, but for one that says something of the primary copy only: it goes along
        with what is sent later."""
        marks = [self.marks(site) for site in self.lab.sites]
        for copy in marks:
            copy.pop("onemirror.booted", None)
        return marks[0] == marks[1]

    def state(self, base):
        """Roles, metadata without random ids and counted from `base`, VM states, and whether records are lost."""
        seen = {}
        for name, site in (("here", self.here), ("there", self.there)):
            seen[name, "primary"] = site.is_primary(self.image)
            seen[name, "vm"] = site.state_name(self.vms[site.name])
            marks = self.marks(site)
            term = ":".join(marks.get("onemirror.handoff", "").split(":")[:2]) + ":"
            for key, value in marks.items():
                # a mark of an earlier token is void
                if key == "onemirror.home" or value.startswith(term) and (key != "onemirror.booted" or seen[name, "primary"]):
                    seen[name, key] = self.plain(value, base)
        logs = self.machine.logs()
        # what a force gives up depends on when it comes
        there = self.there.check_records(self.image, *(([], logs) if self.forces else (logs,)))
        # a VM that runs has a record that is half written
        seen["records"] = there["lost"] if self.there.state_name(self.vms[self.there.name]) == "RUNNING" else there["ok"]
        written = self.here.acknowledged(self.vms[self.here.name])
        seen["kept"] = [(self.role(site), "mirroring" in site.info(name), site.check_records(name, written, written_as=self.image)["lost"])
                        for site, name in self.kept()]
        return seen

    def role(self, site):
        return "here" if site is self.here else "there"

    def plain(self, text, base):
        text = text.strip()
        for site in self.lab.sites:
            text = text.replace(site.name, self.role(site))
        text = re.sub(r"\b[0-9a-f]{16}\b", "ID", text)
        # who did it when, in the note of a forced promotion
        text = text.split(" ")[0]
        text = re.sub(r":\d+:[0-9a-f-]{36}$", ":VM", text)
        return re.sub(r"^\d+", lambda number: "%+d" % (int(number.group()) - base), text)


class Kept:
    """A copy that was set aside on the first site; each run has one of its own to restore or to drop."""

    def __init__(self, lab, mode):
        stale = Subject(lab, mode, False)
        self.site = stale.here
        stale.before("set-aside")
        self.site.reconcile(check=False)
        stale.rested("set-aside")
        ((site, self.image),) = stale.kept()
        assert site is self.site
        self.written, self.written_as = site.acknowledged(stale.vms[site.name]), stale.image
        note = site.rbd("image-meta", "get", self.image, NOTE).stdout.strip()
        self.note = json.loads(note)
        # not what its note says it is called, so it is nobody's business any more
        self.master = self.image + ".master"
        site.rbd("rename", self.image, self.master)

    def sequence(self, _site):
        return 0

    def before(self, _operation):
        self.site.rbd("cp", self.master, self.image)
        note = dict(self.note, copy=self.site.info(self.image)["id"])
        self.site.rbd("image-meta", "set", self.image, NOTE, json.dumps(note))

    def command(self, operation):
        return self.site, ["lost", operation.partition("-")[2], self.image, *(["--yes"] if operation == "lost-drop" else [])]

    def rested(self, _operation):
        pass

    def registrations(self):
        return [image.ID for image in self.site.one.imagepool.info(-2, -1, -1).IMAGE if image.SOURCE == self.image]

    def state(self, _base):
        """Whether it is there, with its records, what onemirror has written on it, and how often it is registered."""
        if self.site.info(self.image) is None:
            return {"there": False, "registered": len(self.registrations())}
        metadata = json.loads(self.site.rbd("image-meta", "list", self.image, "--format", "json").stdout or "{}")
        return {"there": True, "lost": self.site.check_records(self.image, self.written, written_as=self.written_as)["lost"],
                "marks": sorted(key for key in metadata if key.startswith("onemirror.")), "registered": len(self.registrations())}

    def after(self, _operation):
        for image in self.registrations():
            assert self.site.image_delete(image) is None
        if self.site.info(self.image):
            self.site.rbd("rm", self.image)


def only_sequences_differ(one, other):
    """Whether the second end differs from the first by sequence numbers alone, which a repeat may count on."""
    def blind(state):
        return {key: re.sub(r"^[+-]\d+", "N", value) if isinstance(value, str) else value for key, value in state.items()}
    return blind(one) == blind(other)


class Table:
    """One operation's column."""

    only_changes = False  # whether calls that only read are passed over
    folder = None  # where the calls are written, instead of killing at them

    def __init__(self, lab, faults, name, first):
        operation, _, mode = name.partition("/")
        self.lab, self.faults, self.name, self.operation = lab, faults, name, operation
        self.subject = Kept(lab, mode) if operation.startswith("lost-") else Subject(lab, mode, operation == "failover-force")
        self.first = first
        self.cells = []

    @contextlib.contextmanager
    def way_there(self, site):
        """A site that is lost does not answer: here its cluster, and by its proxy its front-end."""
        if self.operation != "failover-force":
            yield
            return
        with open(site.configuration) as file:
            before = file.read()
        conf = self.lab.other(site).conf
        site.write_configuration(before.replace('"%s"' % conf, '"%s"' % site.peer_conf_with(mon_host="127.0.0.1:1"), 1).replace(
            'command_timeout = "20s"', 'command_timeout = "8s"'))
        try:
            yield
        finally:
            site.write_configuration(before)

    def call(self, site, words, kill=None):
        with self.way_there(site):
            return self.called(site, words, kill)

    def called(self, site, words, kill):
        """Runs onemirror; the calls it made, whether it was killed, its exit status and what it said last."""
        broken = self.faults.sites[site.name]
        mark = "%s-%d" % (self.operation, time.time_ns())
        if kill:
            with open(broken.path("armed." + mark), "w") as file:
                file.write(" ".join(map(str, kill)) + "\n")
        program = os.path.join(site.location, "bin/onemirror")
        process = subprocess.Popen(
            [program, *words], env=dict(site.environment, ONEMIRROR_LAB_MEANT=mark), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        document = self.subject.document(site) if words[0] == "hook" else ""
        try:
            _, said = process.communicate(document, timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LabError("onemirror %s does not end" % " ".join(words))
        with contextlib.suppress(FileNotFoundError):
            os.remove(broken.path("armed." + mark))
        pid = process.pid
        calls = [line.split(" ", 2)[2] for line in broken.lines("calls.log") if line.startswith("%d " % pid)]
        killed = any(line.split()[1] == str(pid) for line in broken.lines("struck.log"))
        # the number of a process comes again
        for path in glob.glob(broken.path("calls/%d.*" % pid)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        return calls, killed, process.returncode, (said.strip().splitlines() or [""])[-1]

    def once(self, kill=None):
        """One run from the same beginning; with a kill, the operation is repeated after it. The end, and the calls."""
        subject, operation = self.subject, self.operation
        base = max(subject.sequence(site) for site in self.lab.sites)
        subject.before(operation)
        site, words = subject.command(operation)
        self.site = site  # where it ran; the sides change after it
        calls, killed, status, said = self.call(site, words, kill)
        if killed:
            _, _, status, said = self.call(site, words)
        subject.rested(operation)
        state = subject.state(base)
        subject.after(operation)
        return state, calls, killed, "exit %d %s" % (status, said)

    def run(self):
        """The cells: per call its name, and per moment of the kill how it ended."""
        self.once()  # the first one has no history
        wanted, names, _, said = self.once()
        print("%s, without a kill: %d calls, %s\n  %s" % (self.name, len(names), said, wanted), flush=True)
        if self.folder:
            self.write(names)
            return
        for number, name in list(enumerate(map(short, names), 1))[self.first - 1 : LIMIT]:
            if self.only_changes and not CHANGES.match(name):
                continue
            row = [self.cell(name, kill, wanted) for kill in kills(names, number)]
            self.cells.append((number, name, row))
            print("%-24s %3d  %-44s %s" % (self.name, number, name, "  ".join("%-7s" % cell for cell in row)), flush=True)

    def write(self, calls):
        """The calls of a run without a kill, in a file of the operation's name."""
        site, other = self.site, self.lab.other(self.site)
        words = [(site.conf, "here"), (other.conf, "there"), (os.path.join(site.location, "etc/peer.conf"), "there"),
                 (site.name, "here"), (other.name, "there"), (self.subject.image.partition("/")[2], "IMAGE")]
        calls = [masked(call, words) for call in calls]
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.folder, self.name.replace("/", "-")), "w") as file:
            file.writelines(line + "\n" for line in comparable(calls, lambda call: CHANGES.match(short(call))))

    def cell(self, name, kill, wanted):
        state, _, killed, said = self.once(kill)
        if not killed:
            return "-"
        if state == wanted:
            return "same"
        if only_sequences_differ(state, wanted):
            return "same+"
        different = {key: (wanted.get(key), state.get(key)) for key in {*wanted, *state} if wanted.get(key) != state.get(key)}
        print("%s: %s, killed at %s: %s\n    %s" % (self.name, name, " ".join(map(str, kill)), said, different), flush=True)
        return "DIFFERS"


def kills(names, number):
    """When to kill at a call: before it, and after it if it changes something. A run waits for the daemons, now longer, now
    shorter, so what changes something is found by its name."""
    changes = CHANGES.match(short(names[number - 1]))
    if not changes:
        return [(number, "before")]
    if changes.group().startswith("one."):
        return [(number, when) for when in WHEN]
    occurrence = sum(short(other).startswith(changes.group()) for other in names[:number])
    return [(occurrence, when, changes.group()) for when in WHEN]


def short(call):
    """`rbd --conf=… mirror image demote --pool=…` → `rbd mirror image demote`"""
    words = [word for word in call.split() if not word.startswith("-")]
    return " ".join(words[:4])[:44]


def run(options, lab):
    faults = Faults(lab, print)
    faults.prepare(by_ssh=())
    for broken in faults.sites.values():
        # a VM that is off gives up what is not at home, so that the sides can change after each run; long deadlines, since
        # it is not them that is tried: longer than the lock of a killed run on the other site's cluster lives
        peer = faults.sites[lab.other(broken.site).name]
        broken.configure(peer, False, librbd_stays="never", release_on=["poweroff"], resume_on_peer=False, command_timeout="20s", sync_timeout="150s", release_timeout="40s")
        # other processes would only be in the way
        broken.site.control("hooks=lose")
    faults.counting = True
    wanted = options.operation or NAMES
    tables, unfinished = {}, []

    def fill(name):
        try:
            tables[name] = Table(lab, faults, name, options.from_call)
            tables[name].only_changes, tables[name].folder = options.only_changes, options.calls
            tables[name].run()
        except Exception as error:
            unfinished.append(name)
            print("%s: not finished: %s" % (name, error), flush=True)
            if not isinstance(error, (LabError, AssertionError)):
                traceback.print_exc()

    for broken in faults.sites.values():
        # what the gate would refuse: nobody can tell whether the VM runs on the other site
        broken.proxy.deaf_to = ("takeover", "failover-force")
    # each has a VM of its own
    alone = [name for name in wanted if name.startswith(ALONE)]
    pool = concurrent.futures.ThreadPoolExecutor(options.side_by_side)
    try:
        list(pool.map(fill, [name for name in wanted if name not in alone]))
        list(map(fill, alone))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        tables = {name: tables[name].cells for name in wanted if name in tables}
        failed = tell(tables, unfinished)
    return 1 if failed else 0


def tell(tables, unfinished):
    """Prints the table; whether something is wrong."""
    show(tables)
    differences = sum(cell == "DIFFERS" for table in tables.values() for _, _, row in table for cell in row)
    kills = sum(cell != "-" for table in tables.values() for _, _, row in table for cell in row)
    print("\n%d kills, %d other ends, %d operations not finished" % (kills, differences, len(unfinished)))
    return bool(differences or unfinished)


def show(tables):
    """Calls × operations: before/after each call."""
    letters = {"same": "=", "same+": "+", "DIFFERS": "X", "-": "."}
    print("\nEnd after kill -9 before and after call n, and the same operation again. A call that only reads is killed before it:")
    print("after it, it is as before the next one.")
    print("= as without the kill   + but for a higher sequence   X another end   . not reached")
    width = max([len(name) for name in tables] or [4]) + 2
    print("%4s  %s" % ("CALL", "".join("%-*s" % (width, name) for name in tables)))
    rows = {name: {number: cells for number, _, cells in table} for name, table in tables.items()}
    for number in sorted({number for table in rows.values() for number in table}):
        row = ["%-*s" % (width, "".join(letters[cell] for cell in table.get(number, []))) for table in rows.values()]
        print("%4d  %s" % (number, "".join(row).rstrip()))

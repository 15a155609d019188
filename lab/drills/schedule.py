"""Runs schedules side by side on one lab, and judges them: what must be there is there, nothing is double, nothing stuck."""
import contextlib
import json
import os
import re
import subprocess
import threading
import time
import traceback

from harness.laboratory import LabError, Machine, command_line, unique

from . import plan as plans

FAILED = (
    "BOOT_FAILURE", "PROLOG_FAILURE", "EPILOG_FAILURE", "BOOT_UNDEPLOY_FAILURE", "BOOT_STOPPED_FAILURE",
    "PROLOG_RESUME_FAILURE", "PROLOG_UNDEPLOY_FAILURE", "EPILOG_UNDEPLOY_FAILURE", "EPILOG_STOP_FAILURE",
)
RESTING = ("RUNNING", "POWEROFF", "DONE", "SUSPENDED", "UNDEPLOYED", "STOPPED", "HOLD") + FAILED
HOME_LIMIT = 480.0  # seconds from the end of all faults until the VM must run at home
RECONCILE_PAUSE = 20.0
UNPROTECTED = {"older-image-there", "not-mirrored"}  # what an operator puts right after a revert
PROTECT_LIMIT = 60.0  # seconds that an operator gives a disk to be mirrored again
FRONT_END_LIMIT = 40.0  # seconds that an operator waits for a front-end
LOOKS_FOR_DRIVERS = 8  # half a second apart: between two actions of one operation no process is at work


class Log:
    """What happened, for the case that it has to be told."""

    def __init__(self, verbose):
        self.begun, self.lines, self.verbose, self.lock = time.monotonic(), [], verbose, threading.Lock()

    def __call__(self, text, lane="  -"):
        line = "%s %8.1f  %s  %s" % (time.strftime("%H:%M:%S"), time.monotonic() - self.begun, lane, text)
        with self.lock:
            self.lines.append(line)
            if self.verbose:
                print(line, flush=True)


class Processes:
    """The command lines of this machine's processes; all lanes ask for them all the time, so they are read for all at once."""

    AGE = 0.25  # seconds that they are good for

    def __init__(self):
        self.lock, self.read, self.lines = threading.Lock(), -self.AGE, []

    def command_lines(self):
        with self.lock:
            if time.monotonic() - self.read >= self.AGE:
                self.lines = [command_line(int(name)) for name in os.listdir("/proc") if name.isdigit()]
                self.read = time.monotonic()
            return self.lines


processes = Processes()


class Lane:
    """One VM with its two homes, and the schedule that it goes through."""

    def __init__(self, lab, faults, number):
        self.lab, self.faults, self.number = lab, faults, number
        # every second VM has its home on the other site
        self.home_site, self.away_site = (lab.b, lab.a) if number % 2 == 1 else (lab.a, lab.b)
        self.machine, self.plan, self.log = None, None, None
        self.forced = False  # an operator's force in this schedule
        self.force_ended_early = False  # onemirror was killed in it, or did not end, in this schedule
        self.asked_by_hand = False  # for a new copy of an image, in this schedule
        self.unprotected = False  # a disk was reverted, and has no copy yet
        self.kept = set()  # (image, log) of records that a force gave up, and that were found on a copy that was set aside
        self.judged = set()  # logs of records that were found complete at home
        self.carried = set()  # those that were found complete on the recovery site, too
        self.operations = 0
        self.done = {}  # how often the VM really ran, per site
        self.trouble = []

    # ------------------------------------------------------------ the VM

    def make(self):
        name = "drill-%d-%x" % (self.number, time.time_ns() // 1000000)
        home = self.home_site
        if home is self.lab.a:
            # two or three disks: journal, snapshot, and a clone for every second VM of this site
            images = [home.image_create(name + "-data", "one", True), home.image_create(name + "-snapshot", "two", True)]
            if self.number % 4 == 0:
                images.append(home.image_create(name + "-base", "one", False))
            home.rbd("mirror", "image", "enable", home.source(images[1]), "snapshot")
            self.machine = Machine(self.lab, name, home.vm_create(name, images))
        else:
            # made on the recovery site: it lives there before anything of it is mirrored
            images = [home.image_create("%s-%s" % (name, mode), "three", True) for mode in ("journal", "snapshot")]
            self.machine = Machine(self.lab, name, home.vm_create(name, images), at=home)
            for image, mode in zip(images, ("journal", "snapshot")):
                home.rbd("mirror", "image", "enable", home.source(image), mode)
        self.machine.register_on_b()
        home.wait_records(self.machine.home, 5)
        home.action("poweroff", self.machine.home)
        home.wait_vm(self.machine.home, "POWEROFF")
        self.judged, self.carried, self.kept, self.unprotected = set(), set(), set(), False

    def say(self, text):
        self.log(text, "%3d" % self.plan.seed)

    @property
    def away(self):
        """The VM's id on the recovery site, if there is one that is not DONE."""
        if not self.machine.vms_b:
            return None
        vm = self.machine.vms_b[-1]
        return None if self.state(self.away_site, vm) == "DONE" else vm

    def state(self, site, vm):
        """The VM's state; None where the front-end does not answer."""
        try:
            return site.state_name(vm)
        except Exception:
            return None

    def where(self):
        away = self.machine.vms_b[-1] if self.machine.vms_b else None
        state = None if away is None else self.state(self.away_site, away)
        return "%s at home, %s away" % (self.state(self.home_site, self.machine.home), state)

    # ------------------------------------------------------------ operations

    def run(self):
        """The schedule; faults strike while it runs."""
        ended = threading.Event()
        strikers = []
        for step in self.plan.steps:
            for strike in step.strikes:
                thread = threading.Thread(target=self.strike, args=(strike, ended), daemon=True)
                thread.start()
                strikers.append(thread)
            self.operations += 1
            self.operate(step)
            self.rest(step.patience)
            for _ in range(3 if step.insists else 0):
                site, vm = self.meant(step)
                if self.state(site, vm) == "RUNNING":
                    break
                if vm is not None and self.is_forgotten(site, vm):
                    with contextlib.suppress(Exception):
                        self.remind(site, vm)
                else:
                    self.operate(step)
                self.rest(15)
        ended.set()
        for thread in strikers:
            thread.join(90)

    def operate(self, step):
        # a schedule beside this one may have the site down: who works there waits for its front-end
        site, _ = self.meant(step)
        end = time.monotonic() + FRONT_END_LIMIT
        while site.answers() is None and time.monotonic() < end:
            time.sleep(0.5)
        self.say("%s (%s)" % (step.operation, self.where()))
        try:
            getattr(self, step.operation.replace("-", "_"))()
        except Exception as error:
            self.say("%s: %s" % (step.operation, str(error).strip().splitlines()[-1:] or type(error).__name__))

    def meant(self, step):
        """The VM that the operation was to start, and where."""
        return (self.away_site, self.away) if step.operation.endswith("-away") else (self.home_site, self.machine.home)

    def is_forgotten(self, site, vm):
        """Whether the VM is on its way somewhere and nobody is at work for it: its front-end was restarted meanwhile."""
        state = self.state(site, vm)
        if state is None or state in RESTING:
            return False
        for _ in range(LOOKS_FOR_DRIVERS):
            if at_work(site, vm):
                return False
            time.sleep(0.5)
        return self.state(site, vm) == state

    def remind(self, site, vm):
        """What an operator types for a VM that its front-end has forgotten in the middle of something."""
        state = self.state(site, vm)
        # an action on a disk cannot be repeated, only taken for failed
        how = "failure" if state.startswith(("HOTPLUG", "DISK_SNAPSHOT")) else "retry"
        self.say("recover --%s: %s has forgotten VM %d, which is %s" % (how, site.name, vm, state))
        site.recover(vm, how)

    def strike(self, strike, ended):
        try:
            self.faults.strike(strike, ended)
        except Exception as error:
            self.say("%s: %s" % (strike.kind, str(error).strip().splitlines()[-1:] or type(error).__name__))

    def rest(self, patience):
        """Until both VMs rest for a moment, or the patience is over."""
        end, calm = time.monotonic() + patience, 0
        while time.monotonic() < end and calm < 4:
            vms = [(self.home_site, self.machine.home)] + [(self.away_site, vm) for vm in self.machine.vms_b[-1:]]
            calm = calm + 1 if all(self.is_at_rest(site, vm) for site, vm in vms) else 0
            time.sleep(0.5)

    def is_at_rest(self, site, vm):
        """Whether nothing is to be waited for: nor for a front-end that does not answer."""
        state = self.state(site, vm)
        return state is None or state in RESTING or not at_work(site, vm)

    def ask(self, site, action, vm):
        if vm is None:
            self.say("there is no VM on %s" % site.name)
        elif action != "terminate" and self.state(site, vm) in FAILED:
            self.say("recover --retry first: %s" % site.vm_error(vm)[-160:])
            site.recover(vm, "retry")
            if action != "resume":
                self.rest(30)
                site.action(action, vm)
        else:
            site.action(action, vm)

    def resume_home(self):
        self.ask(self.home_site, "resume", self.machine.home)

    def poweroff_home(self):
        self.ask(self.home_site, "poweroff", self.machine.home)

    def suspend_home(self):
        self.ask(self.home_site, "suspend", self.machine.home)

    def undeploy_home(self):
        self.ask(self.home_site, "undeploy", self.machine.home)

    def failover_home(self):
        self.onemirror(self.home_site, "failover", self.machine.home)

    def start_away(self):
        away = self.away
        if away is None:
            self.instantiate()
        else:
            self.ask(self.away_site, "resume", away)

    def instantiate(self):
        # not Machine.start_on_b, which waits until all is well
        self.register_again()
        vm = self.away_site.vm_create(self.machine.name, self.machine.registered)
        self.machine.vms_b.append(vm)
        return vm

    def resume_away(self):
        self.ask(self.away_site, "resume", self.away)

    def poweroff_away(self):
        self.ask(self.away_site, "poweroff", self.away)

    def suspend_away(self):
        self.ask(self.away_site, "suspend", self.away)

    def undeploy_away(self):
        self.ask(self.away_site, "undeploy", self.away)

    def terminate_away(self):
        self.ask(self.away_site, "terminate", self.away)

    def failover_away(self):
        if self.away is not None:
            self.onemirror(self.away_site, "failover", self.away)

    def reconcile_home(self):
        self.onemirror(self.home_site, "reconcile")

    def reconcile_away(self):
        self.onemirror(self.away_site, "reconcile")

    def crowd(self):
        """Two operators and reconcile, on both sites, at once."""
        calls = [(self.home_site, "reconcile"), (self.away_site, "reconcile"), (self.home_site, "failover", self.machine.home)]
        if self.away is not None:
            calls.append((self.away_site, "failover", self.away))
        threads = [threading.Thread(target=self.onemirror, args=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.faults.struck("operators-at-once")

    def vanish(self):
        """Somebody asks by hand for a new copy where the other one is primary: the image is gone for a while."""
        for image in self.machine.images.values():
            for site in self.lab.sites:
                other = self.lab.other(site)
                if not (self.rbd(other, "info", image, primary=True) and self.rbd(site, "info", image, primary=False)):
                    continue
                before = self.image_id(site, image)
                self.asked_by_hand = True
                self.rbd(site, "mirror", "image", "resync", image)
                for _ in range(40):
                    if self.image_id(site, image) != before:
                        self.say("%s vanished on %s" % (image, site.name))
                        self.faults.struck("image-vanishes")
                        return
                    time.sleep(0.2)

    def rbd(self, site, *arguments, primary=None):
        """`rbd` with a short deadline; True if it worked, and the role is the wanted one."""
        result = self.quick(site, *arguments, *(("--format", "json") if primary is not None else ()))
        if result is None or primary is None:
            return result is not None
        return json.loads(result).get("mirroring", {}).get("primary") is primary

    def image_id(self, site, image):
        result = self.quick(site, "info", image, "--format", "json")
        return result and json.loads(result).get("id")

    def quick(self, site, *arguments):
        program = os.path.join(self.lab.clusters, "bin/rbd")
        if not os.path.exists(program):
            program = "/usr/bin/rbd"
        command = ["timeout", "-k", "1", "8", program, "--conf", site.conf, "--id", "admin", *arguments]
        result = subprocess.run(command, env=site.environment, text=True, capture_output=True)
        return result.stdout if result.returncode == 0 else None

    def lose_home(self):
        """The site is lost in the middle of its writes; an operator forces the VM on the other one."""
        a, b = self.home_site, self.away_site
        if self.state(a, self.machine.home) == "POWEROFF" and self.away is None:
            self.resume_home()
            self.rest(20)
        if self.state(a, self.machine.home) != "RUNNING" or self.unprotected:
            # a suspended VM's memory, a VM that runs over there, or an older image there would make the force a mistake
            self.say("nothing to lose, the VM does not run at home with all its copies")
            return
        with self.faults.site_lost(a.name):
            away = self.away
            if away is None:
                away = self.instantiate()
                self.rest(60)
            # what replication had not carried over when the force came is given up; everything else is not
            given_up = [log for log in a.acknowledged(self.machine.home) if log not in self.carried]
            self.forced = True
            result = self.onemirror(b, "failover", away, "--force", "--reason", "drill: %s is lost" % a.name)
            if result is None or result.returncode != 0 or "by force" in result.stdout:
                self.machine.may_lose_tail += given_up
            self.force_ended_early |= result is None or result.returncode < 0
            self.rest(30)

    def cut_home(self):
        """Only the cluster of the home site is out of reach; its front-end says that the VM runs. A force is a mistake."""
        home, away_site = self.home_site, self.away_site
        if self.state(home, self.machine.home) != "RUNNING":
            self.say("nothing to cut, the VM does not run at home")
            return
        away = self.away
        if away is None:
            away = self.instantiate()
            self.rest(60)
        with self.faults.cluster_cut(home.name):
            if self.state(home, self.machine.home) != "RUNNING":
                return
            result = self.onemirror(away_site, "failover", away, "--force", "--reason", "drill: a mistake")
            if result is not None and result.returncode == 0:
                self.trouble.append("forced past a VM that runs at home")
                self.forced = True

    def recreate_away(self):
        """What the hook of OpenNebula's VM high availability does."""
        if self.away is not None:
            self.away_site.recover(self.away, "recreate")
            self.faults.struck("vm-recreated")

    def delete_image_away(self):
        """An administrator tidies up where nothing seems to use the images any more, and registers them again."""
        if not self.is_away_tidy():
            self.say("the images are in use")
            return
        for image in self.machine.registered:
            self.say("oneimage delete %d: %s" % (image, self.away_site.image_delete(image, timeout=10)))
            self.faults.struck("image-deleted")
        self.register_again()

    def is_away_tidy(self):
        """Whether no VM is left on the other site; one that never ran there is removed."""
        if self.away is not None and self.state(self.away_site, self.away) in FAILED:
            self.terminate_away()
            self.rest(20)
        return self.away is None

    def register_again(self):
        """The copies whose registration is gone become images of the other site again."""
        site = self.away_site
        for at, (disk, image) in enumerate(sorted(self.machine.images.items())):
            if site.image_state(self.machine.registered[at]) is None:
                name = unique("%s-%d" % (self.machine.name, disk))
                self.machine.registered[at] = site.image_create(name, image.split("/")[0], True, source=image)

    def attach_home(self):
        self.attach(self.home_site, self.machine.home)

    def attach_away(self):
        self.attach(self.away_site, self.away)

    def attach(self, site, vm):
        """A disk comes and goes: oned's hooks of RUNNING fire at each."""
        if vm is None or self.state(site, vm) != "RUNNING":
            self.say("nothing runs that a disk could be attached to")
            return
        disks = set(site.vm_images(vm))
        site.one.vm.attach(vm, 'DISK=[TYPE="fs",FORMAT="raw",SIZE="8"]')
        self.rest(20)
        for disk in set(site.vm_images(vm)) - disks:
            site.one.vm.detach(vm, disk)
            self.faults.struck("disk-attached")
        self.rest(20)

    def revert_home(self):
        """A disk goes back to a snapshot that was just taken: the same bytes, and another image."""
        site, vm = self.home_site, self.machine.home
        if self.state(site, vm) != "POWEROFF" or not self.is_away_tidy() or not self.protect():
            self.say("nothing that could be reverted")
            return
        disk = self.operations % len(self.machine.images)
        snapshot, state = site.disk_snapshot(vm, disk, timeout=20)
        self.unprotected = True
        if state == "POWEROFF":
            self.say("disk %d goes back to its snapshot %d: %s" % (disk, snapshot, site.disk_revert(vm, disk, snapshot, timeout=20)))
            self.faults.struck("disk-reverted")
        self.protect()

    def protect(self):
        """What `onemirror list` says to type after a revert, until all copies follow, or for a while; whether they do."""
        if not self.unprotected:
            return True
        end = time.monotonic() + PROTECT_LIMIT
        while time.monotonic() < end:
            with contextlib.suppress(LabError, subprocess.TimeoutExpired, ValueError):
                for concern in self.home_site.overview()["concerns"]:
                    if concern["image"] in self.machine.images.values() and concern["kind"] in UNPROTECTED:
                        for way in concern["advice"]:
                            self.type(way)
                if all(map(self.has_copies, self.machine.images.values())):
                    self.say("all disks have their copies")
                    self.unprotected = False
                    return True
                self.onemirror(self.home_site, "reconcile")
            time.sleep(2)
        self.say("not all disks have their copies")
        return False

    def type(self, way):
        """The commands of one way that is typed at home; the others are to be waited for."""
        if (way["kind"], way.get("at")) != ("type", "here"):
            return
        for command in (said["command"] for said in way["commands"]):
            # one after the other, as `&&` has them: what fails ends it, and all of it is typed again later
            if not self.typed(command):
                return

    def typed(self, command):
        """Whether the command ended well."""
        words = command.split()
        if words[0] == "onemirror":
            result = self.onemirror(self.home_site, *words[1:])
            return result is not None and result.returncode == 0
        well = words[0] == "rbd" and self.rbd(self.home_site, *words[1:])
        self.say("%s on %s: %s" % (command, self.home_site.name, well))
        return well

    def has_copies(self, image):
        """Whether the other site has the copy of this very image, and all of it."""
        infos = [json.loads(self.quick(site, "info", image, "--format", "json") or "{}") for site in self.lab.sites]
        ids = {info.get("mirroring", {}).get("global_id") for info in infos}
        away = self.quick(self.away_site, "mirror", "image", "status", image, "--format", "json")
        return len(ids) == 1 and None not in ids and "replaying" in json.loads(away or "{}").get("state", "")

    def onemirror(self, site, *arguments):
        result = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            result = site.onemirror(*arguments, check=False, timeout=90)
        words = " ".join(map(str, arguments[:3]))
        if result is None:
            self.say("%s: onemirror %s did not end" % (site.name, words))
        else:
            last = (result.stderr.strip().splitlines() or [""])[-1]
            self.say("%s: onemirror %s: exit %d %s" % (site.name, words, result.returncode, last[:160]))
        return result

    # ------------------------------------------------------------ after the faults

    def bring_home(self, front_end_was_stopped):
        """What an operator would do, until the VM runs at home; the trouble in words if it does not in time."""
        a, b = self.home_site, self.away_site
        end, since, last = time.monotonic() + HOME_LIMIT, time.monotonic(), None
        while time.monotonic() < end:
            away = self.away
            states = self.state(a, self.machine.home), None if away is None else self.state(b, away)
            if states != last:
                self.say("%s at home, %s away" % states)
                last, since = states, time.monotonic()
            resting = time.monotonic() - since
            try:
                if states[0] == "RUNNING" and away is None:
                    # first, since a disk that is not mirrored is primary nowhere
                    if self.protect() and self.primaries() == {self.home_site.name[-1]}:
                        return True
                elif away is not None:
                    self.away_towards_home(b, away, states[1], resting, front_end_was_stopped)
                else:
                    self.start_home(a, states[0], resting, front_end_was_stopped)
            except Exception as error:  # a front-end that is busy; and what is the drill's own fault is to be seen
                self.say("%s: %s" % (type(error).__name__, error))
            time.sleep(1)
        self.trouble.append("stuck: %s after %.0f s, %s" % (self.where(), HOME_LIMIT, self.primaries()))
        return False

    def away_towards_home(self, site, vm, state, resting, front_end_was_stopped):
        if state in ("RUNNING", "POWEROFF", "SUSPENDED", "UNDEPLOYED", "STOPPED", "PENDING", "HOLD") and resting > 1:
            self.say("terminate away")
            site.action("terminate", vm)
            time.sleep(1)
        elif state == "EPILOG_FAILURE" and resting > 3:
            self.say("recover --retry away")
            site.recover(vm, "retry")
            time.sleep(3)
        elif state in FAILED and resting > 1:
            self.say("terminate away, which deletes")
            site.action("terminate", vm)
            time.sleep(1)
        elif front_end_was_stopped and resting > 5 and self.is_forgotten(site, vm):
            # the front-end that waited for the driver is gone
            self.remind(site, vm)
            time.sleep(5)

    def start_home(self, site, state, resting, front_end_was_stopped):
        vm = self.machine.home
        # the handoff resumes it by itself; only a VM that nobody resumes is resumed by its user
        if state in ("POWEROFF", "UNDEPLOYED", "SUSPENDED", "STOPPED") and resting > 8:
            error = site.vm_error(vm)
            self.say("resume at home: %s" % error[-120:])
            # oned cuts the sentence, and its code comes first
            if self.asked_by_hand and "OM15 " in error:
                # the other copy was thrown away by hand while this one was given up: only who did it can know. Every
                # record has to be there all the same
                self.forced = True
                self.onemirror(site, "failover", vm, "--force", "--reason", "drill: asked for a new copy by hand")
            elif not self.put_right_by_hand(site, vm, error):
                site.action("resume", vm)
            time.sleep(2)
        elif state in FAILED and resting > 5:
            self.say("recover --retry at home: %s" % site.vm_error(vm)[-120:])
            site.recover(vm, "retry")
            time.sleep(2)
        elif front_end_was_stopped and resting > 5 and self.is_forgotten(site, vm):
            self.remind(site, vm)
            time.sleep(5)

    def put_right_by_hand(self, site, vm, error):
        """Whether there was something to type; the last refusal is shown until the next resume."""
        if self.asked_by_hand and "OM13 " in error:
            return self.promote_only_copies(error)
        if self.asked_by_hand and "OM42 " in error:
            return self.mirror_anew(site, vm)
        return self.force_ended_early and "OM53 " in error and self.give_up_what_never_booted(site, vm)

    def promote_only_copies(self, error):
        """What the gate says to type on the recovery site: the copy at home was thrown away by hand just as the other one
        was given up, so nothing is left to copy from."""
        promoted = False
        for image in self.machine.images.values():
            is_meant = "%s is not here" % image.rpartition("/")[2] in error
            if is_meant and self.rbd(self.away_site, "info", image, primary=False):
                promoted = True
                self.say("promote %s by hand on %s: %s" % (image, self.away_site.name, self.rbd(self.away_site, "mirror", "image", "promote", image)))
        return promoted

    def give_up_what_never_booted(self, site, vm):
        """What the gate says to type where a force was killed before its token: nothing has run on that copy."""
        for place, commands in self.advised(site, vm):
            if any(command.startswith("rbd mirror image resync ") for command in commands):
                return self.type_rbd(place, commands)
        return False

    def mirror_anew(self, site, vm):
        """What the gate says to type where the copy that was forced still has to be thrown away at somebody's request."""
        for place, commands in self.advised(site, vm):
            if commands and all(command.startswith("rbd ") for command in commands) and self.type_rbd(place, commands):
                return True
        return False

    def advised(self, site, vm):
        """What a refused boot tells to type: the site, and the commands."""
        said = site.onemirror("plan", vm, "-j", check=False, timeout=90).stdout
        try:
            ways = json.loads(said)["boot"]["advice"] or []
        except ValueError:
            return []
        return [
            (site if way["at"] == "here" else self.lab.other(site), [command["command"] for command in way["commands"]])
            for way in ways if way["kind"] == "type"
        ]

    def type_rbd(self, site, commands):
        results = [self.rbd(site, *command.split()[1:]) for command in commands]
        self.say("%s by hand on %s: %s" % (" && ".join(commands), site.name, results))
        return all(results)

    def primaries(self):
        """How the images are primary: a set of "", "a", "b", "ab"."""
        return set(self.machine.primaries().values())

    def carried_over(self):
        """The logs whose records are on the recovery site, each on all disks: nothing there may lose them any more. A copy
        of snapshots gets there with the next snapshot only, and the VM's own boots take none."""
        carried = set(self.machine.logs())
        try:
            for verdict in self.machine.verdicts(self.away_site):
                carried -= {log["log"] for log in verdict["logs"] + verdict["may_lose_tail"] if log["lost"]}
        except LabError as error:  # no copy there at the moment
            self.say("what is on %s is not known: %s" % (self.away_site.name, error))
            return set()
        return carried

    def judge(self):
        """The VM is off at home; lost records, double primaries."""
        a = self.home_site
        double = [image for image, sites in self.machine.primaries().items() if sites == "ab"]
        for image in double:
            self.trouble.append("primary on both sites: %s" % image)
        lost, exempt = 0, 0
        for verdict in self.machine.verdicts(a):
            exempt += sum(log["lost"] for log in verdict["may_lose_tail"])
            lost += self.not_kept(verdict)
            if not verdict["ok"]:
                lost += max(1, verdict["lost"])
                short = dict(verdict, logs=[log for log in verdict["logs"] if log["lost"]])
                self.trouble.append("records: %s" % json.dumps(short))
        new = [log for log in self.machine.logs() if log not in self.judged]
        away = sum(log.startswith(self.away_site.location) for log in new)
        self.done.update({"runs at home": len(new) - away, "runs away": away})
        if not lost:
            self.judged.update(new)
            self.carried |= self.carried_over()
            self.drop_kept()
        self.say("at home: %d lost, %d given up by force" % (lost, exempt))
        return lost, len(double)


    def lost_copies(self):
        """What was set aside of the VM's disks: (site, what they were, what they are called now)."""
        images = self.machine.images.values()
        return [(site, found["of"], found["image"]) for site in self.lab.sites
                for found in json.loads(site.onemirror("lost", "list", "-j").stdout) if found["of"] in images]

    def not_kept(self, verdict):
        """How many runs have records that a force gave up and that nobody has kept; only a resync by hand may cost them."""
        image = verdict["image"]
        missing = [log["log"] for log in verdict["may_lose_tail"] if log["lost"] and (image, log["log"]) not in self.kept]
        if not missing:
            return 0
        copies = [(site, name) for site, of, name in self.lost_copies() if of == image]
        found = {log for log in missing if any(site.check_records(name, [log], written_as=image)["lost"] == 0 for site, name in copies)}
        nowhere = sorted(set(missing) - found)
        self.say("%s: %d runs are on copies that were set aside, %d nowhere" % (image, len(found), len(nowhere)))
        self.done["kept"] = self.done.get("kept", 0) + len(found)
        self.kept.update((image, log) for log in missing if log in found or self.asked_by_hand)
        if nowhere and not self.asked_by_hand:
            self.trouble.append("kept nowhere: %s of %s, copies %s" % (nowhere, image, [name for _, name in copies]))
            return len(nowhere)
        return 0

    def drop_kept(self):
        for site, _, name in self.lost_copies():
            self.onemirror(site, "lost", "drop", name, "--yes")


class Watch:
    """Looks all the time whether a VM writes on both sites at once."""

    def __init__(self, lanes, log):
        self.lanes, self.log, self.stopped, self.seen = lanes, log, threading.Event(), {}
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while not self.stopped.wait(0.25):
            for lane in self.lanes:
                with contextlib.suppress(Exception):
                    if lane.forced or lane in self.seen or not lane.machine.vms_b:
                        continue
                    if writes(lane.home_site, lane.machine.home) and writes(lane.away_site, lane.machine.vms_b[-1]):
                        self.seen[lane] = True
                        lane.say("WRITES ON BOTH SITES")
                        lane.trouble.append("the VM wrote on both sites at once")


def at_work(site, vm):
    """Whether a driver is at work for the VM, of the front-end that is up or of one that was stopped."""
    mark = re.compile(re.escape(site.location) + r"/var/+(datastores/\d+|vms)/%d(/|\0|$)" % vm)
    return any(map(mark.search, processes.command_lines()))


def writes(site, vm):
    """Whether the VM's domain lives and has written to every disk."""
    folder = os.path.join(site.location, "var/vms/%d" % vm)
    if not os.path.exists(folder + "/domain.ready"):
        return False
    with open(folder + "/domain.pid") as file:
        pid = int(file.read())
    with open("/proc/%d/cmdline" % pid, "rb") as file:
        return folder.encode() in file.read()


class Group:
    """Several schedules at once: their VMs are their own, the faults strike them all."""

    def __init__(self, lab, faults, lanes, seeds, log):
        self.lab, self.faults, self.lanes, self.log = lab, faults, lanes[: len(seeds)], log
        self.faults.log = log
        for lane, seed in zip(self.lanes, seeds):
            lane.plan, lane.log, lane.trouble = plans.plan(seed), log, []
            lane.forced = lane.force_ended_early = lane.asked_by_hand = False

    def each(self, act):
        """Runs something for every lane at once; an error is that lane's trouble."""
        def guarded(lane):
            try:
                act(lane)
            except Exception as error:
                lane.say("".join(traceback.format_exc()))
                lane.trouble.append("%s: %s" % (act.__name__, error))

        threads = [threading.Thread(target=guarded, args=(lane,), daemon=True) for lane in self.lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run(self):
        """Returns, per lane, what it lost, doubled, and whether it is stuck."""
        for broken in self.faults.sites.values():
            broken.forget_calls()
        self.each(make)
        watch = Watch(self.lanes, self.log)
        stops = self.faults.tally["front-end-stopped"] + self.faults.tally["site-lost"]
        self.each(Lane.run)
        self.log("all faults end")
        self.faults.end()
        stopped = self.faults.tally["front-end-stopped"] + self.faults.tally["site-lost"] > stops
        looking = threading.Event()
        reconcilers = [threading.Thread(target=self.reconcile, args=(site, looking), daemon=True) for site in self.lab.sites]
        for thread in reconcilers:
            thread.start()
        results = {lane: {"lost": 0, "double": 0, "stuck": 0} for lane in self.lanes}

        def bring_home(lane):
            results[lane]["stuck"] = 0 if lane.bring_home(stopped) else 1

        self.each(bring_home)
        looking.set()
        for thread in reconcilers:
            thread.join(120)
        watch.stopped.set()

        def judge(lane):
            vm, home = lane.machine.home, lane.home_site
            if results[lane]["stuck"]:
                # whatever else is wrong, the copies can be looked at
                results[lane]["double"] = int("ab" in lane.primaries())
                return
            home.wait_records(vm, 3)
            home.action("poweroff", vm)
            home.wait_vm(vm, "POWEROFF")
            results[lane]["lost"], results[lane]["double"] = lane.judge()

        self.each(judge)
        for lane in self.lanes:
            if lane in watch.seen:
                results[lane]["double"] = 1
            if lane.trouble and not any(results[lane].values()):
                results[lane]["stuck"] = 1  # the drill itself could not go on
        return results

    def reconcile(self, site, stopped):
        """As cron does, only more often."""
        while not stopped.wait(RECONCILE_PAUSE):
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                site.onemirror("reconcile", check=False, timeout=200)


def make(lane):
    if lane.machine is None:
        lane.make()

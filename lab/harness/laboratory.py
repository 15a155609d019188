"""Starts, drives and ends the lab. Used by lab/up, lab/down, lab/demo and the tests in tests/lab."""
import base64
import contextlib
import glob
import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import xmlrpc.client

import pyone

from .states import ACTIVE, IMAGE_STATES, LCM_STATES, STATES

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(REPOSITORY, "lab")
SITES = ("site-a", "site-b")
POOLS = ("one", "two", "three")
LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
FRONT_END_PORTS = {"site-a": 26331, "site-b": 26332}
RUNNING = "RUNNING"
MEGABYTES = 16
# How much longer than on an idle machine everything may take: the deadlines only say when to give up.
PATIENCE = 3


class LabError(Exception):
    """The lab itself is broken; says nothing about onemirror."""


def unique(name):
    """A name that no earlier run on a kept lab has used."""
    return "%s-%x" % (name, time.time_ns() // 1000)


def end_on_signals():
    """INT and TERM end this process through its clean-up, which no second one disturbs."""
    def end(number, _frame):
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt("signal %d" % number)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)


def wait_until(what, condition, timeout=60.0, pause=0.1):
    """Waits for a condition and returns what it returned; fails with what was seen last."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise LabError("waited %.0f s in vain for %s" % (timeout * PATIENCE, what))
        time.sleep(pause)


def run(command, check=True, env=None, timeout=600, **options):
    """Runs a program; its output is in the error if it fails."""
    result = subprocess.run(command, env=env, timeout=timeout, text=True, capture_output=True, **options)
    if check and result.returncode != 0:
        raise LabError("%s: exit status %d\n%s%s" % (" ".join(command), result.returncode, result.stdout, result.stderr))
    return result


class Site:
    """One site: its cluster, its front-end, the plugin in it."""

    def __init__(self, lab, name):
        self.hooks = "hooks=deliver"
        self.lab, self.name = lab, name
        self.port = FRONT_END_PORTS[name]
        self.location = os.path.join(lab.root, name)
        self.conf = os.path.join(lab.clusters, name, "ceph.conf")
        self.datastores = {}

    # ------------------------------------------------------------ front-end

    @property
    def environment(self):
        environment = dict(self.lab.environment, ONE_LOCATION=self.location, ONEMIRROR_LAB_RUN=self.lab.run_prefix)
        environment["ONEMIRROR_LAB_CLUSTERS"] = self.lab.clusters
        environment["PATH"] = ":".join(
            [*self.lab.programs, os.path.join(self.lab.clusters, "bin"), os.path.join(self.location, "bin"), os.environ["PATH"]]
        )
        if self.lab.programs:
            environment["ONEMIRROR_LIBRBD_PROGRAM"] = os.path.join(self.lab.programs[0], "librbd")
        environment["ONE_XMLRPC"] = self.endpoint
        environment["ONE_AUTH"] = self.auth_file
        return environment

    @property
    def endpoint(self):
        return os.environ.get("ONEMIRROR_LAB_ENDPOINT_" + self.name[-1].upper()) or "http://127.0.0.1:%d/RPC2" % self.port

    @property
    def auth_file(self):
        return os.path.join(self.location, "var/.one/one_auth")

    @property
    def one(self):
        with open(self.auth_file) as file:
            return pyone.OneServer(self.endpoint, session=file.read().strip())

    def front_end_start(self):
        log = open(os.path.join(self.lab.root, self.name + ".front-end.log"), "ab")
        self.lab.spawn(
            "front-end." + self.name,
            [self.lab.front_end, "serve", "--location", self.location, "--port", str(self.port), "--name", self.name,
             "--remotes", os.path.join(LAB, "remotes"), "--writer", os.path.join(LAB, "writer"), "--rate", str(self.lab.rate)],
            env=self.environment, stdout=log, stderr=log,
        )
        wait_until("front-end of " + self.name, self.answers, 30)
        # what becomes of hooks is kept in its memory only
        if self.hooks != "hooks=deliver":
            self.control(self.hooks)

    def front_end_tells(self):
        """How its process is and what it said last, for a test that failed: one that ended takes the reason along."""
        if self.lab.ended:
            return "It is down, with its lab."
        process = self.lab.children.get("front-end." + self.name)
        state = "was not started by this test, or ended by it"
        if process:
            state = "runs" if process.poll() is None else "ended by itself, with exit status %d" % process.poll()
        with open(os.path.join(self.lab.root, self.name + ".front-end.log"), errors="replace") as log:
            said = log.readlines()[-10:]
        return "It %s. It said last:\n%s" % (state, "".join(said))

    def answers(self):
        try:
            return self.one.system.version()
        except Exception:
            return None

    def front_end_kill(self):
        self.lab.kill("front-end." + self.name)

    def control(self, *requests):
        self.hooks = next((request for request in requests if request.startswith("hooks=")), self.hooks)
        run([self.lab.front_end, "control", "--location", self.location, *requests], env=self.environment)

    @contextlib.contextmanager
    def controlled(self, request, normal):
        self.control(request)
        try:
            yield
        finally:
            self.control(normal)

    # ------------------------------------------------------------ plugin

    @property
    def role(self):
        return "home" if self.name == "site-a" else "recovery"

    def install(self):
        # the machine's own systemd is none of the lab's business; drills call reconcile themselves
        peer = self.lab.other(self)
        return self.setup("--role", self.role, "--no-timer", "--peer-endpoint", peer.endpoint, "--peer-auth", peer.auth_file)

    def setup(self, *arguments, check=True):
        installer = os.path.join(REPOSITORY, "install.sh")
        return run([installer, "--binary", self.lab.binary, *arguments], env=self.environment, check=check)

    def configure(self, peer_conf=None, **policy):
        """Writes onemirror.conf; `policy` overrides the lab's values, `peer_conf` is another way to the other cluster."""
        peer = self.lab.other(self)
        auth = os.path.join(self.location, "etc/peer_auth")
        shutil.copyfile(peer.auth_file, auth)
        os.chmod(auth, 0o600)
        # one site has Ceph's libraries called, the other one its commands: both are tried by each test. What a call may take
        # is as the product has it: Ceph itself waits up to 30 s for clients that died without a word
        values = {"sync_timeout": "60s", "release_timeout": "40s", "librbd": self.name == "site-b"}
        values.update(policy)
        text = """[site]
name = "{0.name}"
role = "{role}"
[peer]
name = "{peer.name}"
endpoint = "{peer.endpoint}"
auth = "{auth}"
[peer.ceph]
conf = "{peer_conf}"
user = "rbd-mirror-peer"
[policy]
""".format(self, peer=peer, peer_conf=peer_conf or peer.conf, auth=auth, role=self.role)
        for key, value in values.items():
            text += "%s = %s\n" % (key, json.dumps(value))
        self.write_configuration(text)

    def peer_conf_with(self, **settings):
        """A copy of the other cluster's ceph.conf in which these settings are others."""
        with open(self.lab.other(self).conf) as file:
            lines = file.readlines()
        for setting, value in settings.items():
            name = setting.replace("_", " ")
            [at] = [at for at, line in enumerate(lines) if line.startswith(name + " = ") and "[mon]\n" not in lines[:at]]
            lines[at] = "%s = %s\n" % (name, value)
        path = os.path.join(self.location, "etc/peer.conf")
        with open(path, "w") as file:
            file.writelines(lines)
        return path

    @contextlib.contextmanager
    def peer_cluster_cut_off(self, **policy):
        """Neither onemirror nor rbd-mirror of this site reaches the other cluster. Its front-end answers, its VMs run on."""
        self.clusters("daemon-stop")
        self.configure(peer_conf=self.peer_conf_with(mon_host="127.0.0.1:1"), **policy)
        try:
            yield
        finally:
            self.configure()
            self.clusters("daemon-start")

    @contextlib.contextmanager
    def hanging(self):
        """All of the site is stopped in the middle: whoever connects is let in by the kernel, and hears nothing."""
        front_end = self.lab.processes["front-end." + self.name]
        self.kill_domains()
        self.clusters("osd-pause")
        for daemon in ("daemon", "monitor"):
            self.lab.run_clusters(daemon + "-stop", "--signal", "STOP", "--site", self.name)
        os.kill(front_end, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(front_end, signal.SIGCONT)
            for part in ("monitor-start", "osd-continue", "daemon-start"):
                self.clusters(part)

    @contextlib.contextmanager
    def peer_key_rotated(self, **policy):
        """The key of this site's onemirror is not that of the other cluster any more."""
        keyring = os.path.join(self.location, "etc/rotated.keyring")
        key = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, 16) + os.urandom(16)).decode()
        with open(keyring, "w") as file:
            file.write("[client.rbd-mirror-peer]\nkey = %s\n" % key)
        self.configure(peer_conf=self.peer_conf_with(keyring=keyring), **policy)
        try:
            yield
        finally:
            self.configure()

    @property
    def configuration(self):
        return os.path.join(self.location, "etc/onemirror.conf")

    def write_configuration(self, text):
        with open(self.configuration + ".new", "w") as file:
            file.write(text)
        os.chmod(self.configuration + ".new", 0o640)
        os.rename(self.configuration + ".new", self.configuration)

    def onemirror(self, *arguments, check=True, timeout=300):
        binary = os.path.join(self.location, "bin/onemirror")
        return run([binary, *map(str, arguments)], check=check, env=self.environment, timeout=timeout)

    def reconcile(self, check=True):
        return self.onemirror("reconcile", check=check)

    def type(self, command, check=True):
        """A command as an operator of this site types it, word by word."""
        environment = dict(self.environment, CEPH_CONF=self.conf)
        client = [os.path.dirname(sys.executable), os.path.join(LAB, "bin"), LAB]
        environment["PATH"] = ":".join([os.path.join(self.location, "bin"), *client, environment["PATH"]])
        return run(shlex.split(command), check=check, env=environment, timeout=300)

    def overview(self):
        # exit status 3: it tells of something that is undone
        return json.loads(self.onemirror("list", "-j", check=False).stdout)

    def audit(self):
        path = os.path.join(self.location, "var/onemirror.log")
        if not os.path.exists(path):
            return []
        with open(path) as lines:
            return [json.loads(line) for line in lines if line.strip()]

    # ------------------------------------------------------------ cluster

    def rbd(self, *arguments, check=True, user="admin"):
        command = [os.path.join(self.lab.clusters, "bin/rbd")]
        if not os.path.exists(command[0]):
            command = ["rbd"]
        return run([*command, "--conf", self.conf, "--id", user, *arguments], check=check, env=self.environment, timeout=120)

    def ceph(self, *arguments):
        return run([*self.lab.run_prefix.split(), "ceph", "--conf", self.conf, *arguments], timeout=60)

    def lock_holders(self, image):
        """Who holds onemirror's lock on the copy here; a lock that has run out has no holder."""
        pool, object_name = image.split("/")[0], "onemirror." + self.info(image)["mirroring"]["global_id"]
        result = run([*self.lab.run_prefix.split(), "rados", "--conf", self.conf, "-p", pool, "lock", "info", object_name, "onemirror",
                      "--format", "json"], check=False, timeout=60)
        return json.loads(result.stdout)["lockers"] if result.returncode == 0 else []

    def info(self, image):
        result = self.rbd("info", image, "--format", "json", check=False)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def rbd_images(self):
        return [pool + "/" + image for pool in POOLS for image in json.loads(self.rbd("ls", pool, "--format", "json").stdout)]

    def remove_image(self, image, patient):
        """Does what it can to remove an image; a copy that is not primary only without patience. True: it was there."""
        info = self.info(image)
        if info is None:
            return False
        mirroring = info.get("mirroring", {})
        if mirroring.get("state") == "enabled" and not mirroring["primary"]:
            if patient:
                return True
            self.rbd("mirror", "image", "promote", "--force", image, check=False)
        if self.rbd("rm", "--no-progress", image, check=False).returncode != 0:
            listed = self.rbd("snap", "ls", image, "--format", "json", check=False)
            for snapshot in json.loads(listed.stdout or "[]"):
                if snapshot.get("protected") in (True, "true"):
                    self.rbd("snap", "unprotect", "%s@%s" % (image, snapshot["name"]), check=False)
            self.rbd("snap", "purge", "--no-progress", image, check=False)
            self.rbd("rm", "--no-progress", image, check=False)
        return True

    def is_primary(self, image):
        """True, False, or None where the image is absent or not mirrored."""
        info = self.info(image)
        return info and info.get("mirroring", {}).get("primary")

    def token(self, image):
        return self.rbd("image-meta", "get", image, "onemirror.handoff", check=False).stdout.strip() or None

    def status(self, image):
        result = self.rbd("mirror", "image", "status", image, "--format", "json", check=False)
        return json.loads(result.stdout) if result.returncode == 0 else {}

    def wait_replaying(self, image, timeout=120):
        """Until the copy here follows the other one, and could be followed itself."""
        wait_until(
            "%s to replay on %s" % (image, self.name),
            lambda: "replaying" in self.status(image).get("state", ""), timeout, 0.3,
        )
        wait_until("%s of %s to be met by the other daemon" % (image, self.name), lambda: self.is_met(image), timeout, 0.3)

    def is_met(self, image):
        """Whether the other site's daemon has a place in the copy's journal. It takes one when it first looks at the copy,
        some seconds after that was made. Ceph forgets the copy's promotion where the VM writes before that, and the daemon
        sees a split brain in what is none."""
        if self.info(image)["mirroring"]["mode"] != "journal":
            return True
        pool, name = image.split("/")
        said = self.rbd("journal", "status", "--pool", pool, "--image", name, "--format", "json", check=False)
        return said.returncode == 0 and len(json.loads(said.stdout)["registered_clients"]) > 1

    def clusters(self, verb):
        self.lab.run_clusters(verb, "--site", self.name)

    # ------------------------------------------------------------ OpenNebula

    def populate(self):
        """Datastores, a host, the hooks."""
        common = 'CEPH_USER="libvirt"\nCEPH_CONF="%s"\nDISK_TYPE="RBD"\nTM_MAD="ceph"\n' % self.conf
        ceph = 'DS_MAD="ceph"\n' + common
        for key, kind, more in (
            ("system", "SYSTEM_DS", 'POOL_NAME="one"\n' + common),
            ("one", "IMAGE_DS", 'POOL_NAME="one"\n' + ceph),
            ("two", "IMAGE_DS", 'POOL_NAME="two"\n' + ceph),
            ("files", "IMAGE_DS", 'DS_MAD="fs"\nTM_MAD="shared"\n'),
            ("three", "IMAGE_DS", 'POOL_NAME="three"\n' + ceph),
        ):
            name = "files_img" if key == "files" else "ceph_" + key
            self.datastores[key] = self.one.datastore.allocate('NAME="%s"\nTYPE="%s"\n' % (name, kind) + more, -1)
        self.one.host.allocate("host-" + self.name[-1], "kvm", "kvm", -1)
        self.lab.save()

    def image_create(self, name, datastore, persistent, source=None, size=MEGABYTES, extra=""):
        """`extra` is more of its template, as PERSISTENT_TYPE="SHAREABLE"."""
        template = 'NAME="%s"\nTYPE="OS"\nPERSISTENT="%s"\nSIZE="%d"\n' % (name, "YES" if persistent else "NO", size)
        if source:
            template += 'SOURCE="%s"\nFORMAT="raw"\n' % source
        image = self.one.image.allocate(template + extra, self.datastores[datastore])
        wait_until("image %s" % name, lambda: self.one.image.info(image).STATE == 1, 30)  # READY
        return image

    def image_state(self, image):
        """The state's name, or None where the image is gone."""
        images = {found.ID: found.STATE for found in self.one.imagepool.info(-2, -1, -1).IMAGE}
        return IMAGE_STATES[images[image]] if image in images else None

    def image_delete(self, image, force=False, timeout=60):
        """Runs `oneimage delete` to its end: None if the image is gone, else its state, which is ERROR."""
        self.one.image.delete(image, force)
        wait_until("image %d of %s to be deleted" % (image, self.name), lambda: self.image_state(image) != "DELETE", timeout)
        return self.image_state(image)

    def image_clone(self, image, name, timeout=60):
        """Runs `oneimage clone` to its end; the new image's id."""
        copy = self.one.image.clone(image, name, -1)
        wait_until("image %d of %s to be copied" % (copy, self.name), lambda: self.image_state(copy) != "LOCKED", timeout)
        assert self.image_state(copy) == "READY", self.one.image.info(copy).TEMPLATE
        return copy

    def source(self, image):
        return self.one.image.info(image).SOURCE

    def vm_create(self, name, images, context=True, extra=""):
        template = 'NAME="%s"\nCPU="0.1"\nMEMORY="96"\n' % name
        if context:
            template += 'CONTEXT=[NETWORK="YES"]\n'
        for image in images:
            template += 'DISK=[IMAGE_ID="%d"]\n' % image
        return self.one.vm.allocate(template + extra, False)

    def vm_state(self, vm):
        info = self.one.vm.info(vm)
        return info.STATE, info.LCM_STATE

    def state_name(self, vm):
        state, lcm = self.vm_state(vm)
        if state == ACTIVE:
            return LCM_STATES.get(lcm, "%d/%d" % (state, lcm))
        return STATES.get(state, "%d/%d" % (state, lcm))

    def vm_error(self, vm):
        template = self.one.vm.info(vm).USER_TEMPLATE or {}
        # what was taken back is an empty element
        return template.get("ERROR") or ""

    def wait_vm(self, vm, *names, timeout=120):
        return wait_until(
            "VM %d of %s to be %s (%s)" % (vm, self.name, " or ".join(names), self.state_name(vm)),
            lambda: (self.state_name(vm) in names) and self.state_name(vm), timeout,
        )

    def action(self, action, vm):
        self.one.vm.action(action, vm)

    def recover(self, vm, how):
        """`onevm recover`: failure, success, retry, delete, recreate or delete-db."""
        self.one.vm.recover(vm, ["failure", "success", "retry", "delete", "recreate", "delete-db"].index(how))

    def boot_again(self, vm, timeout=180):
        """`onevm recover --recreate` to its end; the state in which the VM came to rest."""
        boots = self.vm_log(vm).count("New state is PENDING")
        self.recover(vm, "recreate")
        wait_until("VM %d to be PENDING" % vm, lambda: self.vm_log(vm).count("New state is PENDING") > boots, 60)
        return self.settle(vm, timeout)

    # Each of these runs to its end and returns the state in which the VM rests then. What the driver refused or failed
    # at is in vm_error(), as on a real front-end.

    def disk_attach(self, vm, image=None, extra=""):
        """An image, or by `extra` a disk without one: TYPE="fs",SIZE="8"."""
        words = ['IMAGE_ID="%d"' % image] if image is not None else []
        self.one.vm.attach(vm, "DISK=[%s]" % ",".join(words + ([extra] if extra else [])))
        return self.settle(vm)

    def disk_detach(self, vm, disk):
        self.one.vm.detach(vm, disk)
        return self.settle(vm)

    def disk_snapshot(self, vm, disk, name="snapshot", timeout=120):
        """The snapshot's number, and the state."""
        number = self.one.vm.disksnapshotcreate(vm, disk, name)
        return number, self.settle(vm, timeout)

    def disk_revert(self, vm, disk, snapshot, timeout=120):
        self.one.vm.disksnapshotrevert(vm, disk, snapshot)
        return self.settle(vm, timeout)

    def disk_snapshot_delete(self, vm, disk, snapshot):
        self.one.vm.disksnapshotdelete(vm, disk, snapshot)
        return self.settle(vm)

    def disk_resize(self, vm, disk, megabytes):
        self.one.vm.diskresize(vm, disk, str(megabytes))
        return self.settle(vm)

    def disk_save_as(self, vm, disk, name, snapshot=-1):
        """The new image, and the state."""
        image = self.one.vm.disksaveas(vm, disk, name, "", snapshot)
        return image, self.settle(vm)

    def backup(self, vm):
        """The image of the backup, or None if there is none, and the state."""
        if "backup" not in self.datastores:
            template = 'NAME="backups"\nTYPE="BACKUP_DS"\nDS_MAD="rsync"\nTM_MAD="-"\n'
            self.datastores["backup"] = self.one.datastore.allocate(template, -1)
            self.lab.save()
        before = {image.ID for image in self.one.imagepool.info(-2, -1, -1).IMAGE}
        self.one.vm.backup(vm, self.datastores["backup"], False)
        state = self.settle(vm)
        made = {image.ID for image in self.one.imagepool.info(-2, -1, -1).IMAGE} - before
        return (made.pop() if made else None), state

    def restore(self, vm, image, disk=-1):
        """In place, of a VM that is off."""
        self.one.vm.restore(vm, image, 0, disk)
        return self.settle(vm)

    def migrate(self, vm, host):
        """Live."""
        self.one.vm.migrate(vm, host, True, False, -1, 0)
        return self.settle(vm)

    def host(self):
        """The number of the site's own host, which is older than any that a test has made beside it."""
        return min(host.ID for host in self.one.hostpool.info().HOST)

    def host_silent(self, host=None):
        """The host does not report any more: ERROR, and its running VMs UNKNOWN. Its domains run on."""
        host = self.host() if host is None else host
        self.control("host-silent=%d" % host)
        wait_until("host %d to be in ERROR" % host, lambda: self.one.host.info(host).STATE == 3, 30)

    def host_heard(self, host=None):
        host = self.host() if host is None else host
        self.control("host-heard=%d" % host)
        wait_until("host %d to be MONITORED" % host, lambda: self.one.host.info(host).STATE == 2, 30)

    def hook_runs(self, vm=None, event=None):
        """What onehem ran, oldest first: dictionaries with hook, event, object, exit, stdout, stderr, milliseconds."""
        path = os.path.join(self.location, "var/hooks.log")
        if not os.path.exists(path):
            return []
        with open(path) as lines:
            runs = [json.loads(line) for line in lines if line.endswith("\n")]
        return [run for run in runs if (vm is None or run["object"] == vm) and (event is None or run["event"] == event)]

    def settle(self, vm, timeout=120):
        """Waits until the VM rests: runs, is off, done or failed."""
        resting = ("RUNNING", "POWEROFF", "DONE", "SUSPENDED", "UNDEPLOYED", "STOPPED", "HOLD", "UNKNOWN", "BOOT_FAILURE",
                   "PROLOG_FAILURE", "EPILOG_FAILURE", "BOOT_UNDEPLOY_FAILURE", "BOOT_STOPPED_FAILURE",
                   "PROLOG_UNDEPLOY_FAILURE", "PROLOG_RESUME_FAILURE", "EPILOG_UNDEPLOY_FAILURE", "EPILOG_STOP_FAILURE")
        return self.wait_vm(vm, *resting, timeout=timeout)

    def resume(self, vm, timeout=180):
        """Resumes the VM and returns the state in which it came to rest, which may be the one it had."""
        boots = self.vm_log(vm).count("New LCM state is BOOT")
        self.action("resume", vm)
        wait_until("the boot of VM %d" % vm, lambda: self.vm_log(vm).count("New LCM state is BOOT") > boots, 30)
        return self.settle(vm, timeout)

    def vm_log(self, vm):
        with open(os.path.join(self.location, "var/vms/%d/vm.log" % vm)) as file:
            return file.read()

    def vm_images(self, vm):
        """disk id → pool/image, as the writers have them"""
        images = {}
        info = self.one.vm.info(vm)
        disks = info.TEMPLATE["DISK"]
        for disk in disks if isinstance(disks, list) else [disks]:
            if disk.get("TM_MAD", "ceph") != "ceph":
                continue
            number = int(disk["DISK_ID"])
            if "SOURCE" not in disk:
                images[number] = "one/one-sys-%d-%d" % (vm, number)
            elif disk["CLONE"] == "YES":
                images[number] = "%s-%d-%d" % (disk["SOURCE"], vm, number)
            else:
                images[number] = disk["SOURCE"]
        return images

    def acknowledged(self, vm):
        """The logs of acknowledged records of the VM's runs, oldest first."""
        paths = glob.glob(os.path.join(self.location, "var/vms/%d/acknowledged.*" % vm))
        return sorted(paths, key=os.path.getmtime)

    def wait_records(self, vm, count=10, timeout=30):
        """Waits until the present run of the VM has that many acknowledged records."""
        def enough():
            logs = self.acknowledged(vm)
            return logs and sum(1 for _ in open(logs[-1])) > count
        wait_until("records of VM %d" % vm, enough, timeout)

    def check_records(self, image, logs, may_lose_tail=(), written_as=None):
        """Reads the image here and judges it, by the name that it had when it was written; returns the verdict of
        lab/check-records."""
        command = [*self.lab.run_prefix.split(), "/usr/bin/python3", os.path.join(LAB, "check-records"), "--conf", self.conf, "--user", "admin"]
        if written_as:
            command += ["--written-as", written_as]
        for log in may_lose_tail:
            command += ["--may-lose-tail", log]
        result = run([*command, image, *logs], check=False, timeout=120)
        if result.returncode not in (0, 1):
            raise LabError(result.stderr)
        return json.loads(result.stdout)

    def hook(self, event, vm):
        """Runs a hook of a VM as onehem does, with the VM's document, and returns how it ended."""
        with open(self.auth_file) as file, xmlrpc.client.ServerProxy(self.endpoint) as server:
            document = server.one.vm.info(file.read().strip(), vm, False)[1]
        script = os.path.join(self.location, "var/remotes/hooks/onemirror", event)
        return run([script], check=False, env=self.environment, input=base64.b64encode(document.encode()).decode())

    def runs(self):
        """The processes of onemirror that are at work for this front-end, but for those that call Ceph's libraries."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if not os.readlink("/proc/%s/exe" % pid).endswith("/onemirror") or "\0librbd\0" in command_line(pid):
                    continue
                with open("/proc/%s/environ" % pid, "rb") as file:
                    if b"ONE_LOCATION=" + self.location.encode() in file.read().split(b"\0"):
                        found.append(int(pid))
        return found

    def library_processes(self):
        """Those that stay connected to a cluster and answer the questions of all runs of this site."""
        share = "\0--share\0" + os.path.join(self.location, "var/onemirror/librbd/")
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and share in command_line(pid)]

    def signal_library_processes(self, number):
        """Whether there were any."""
        found = self.library_processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(found)

    def domains(self, vm="*"):
        """The processes of the site's VMs, or of one of them."""
        pids = []
        for path in glob.glob(os.path.join(self.location, "var/vms/%s/domain.pid" % vm)):
            with open(path) as file:
                pid = int(file.read() or 0)
            # the number may have come to another process, which may well be another VM's
            if pid and os.path.join(os.path.realpath(os.path.dirname(path)), "deployment.") in command_line(pid):
                pids.append(pid)
        return pids

    def kill_domains(self):
        """What a power cut does to the VMs of the site's hosts."""
        for pid in self.domains():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def environment_of(pid):
    """Its variables, as NAME=VALUE; none of a process that has ended."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except OSError:
        return []


def command_line(pid):
    try:
        with open("/proc/%s/cmdline" % pid, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class Lab:
    """Both sites. Everything below `root` is the lab's own and is removed by down()."""

    def __init__(self, root=None, ceph=None):
        self.root = os.path.abspath(root or os.path.join(LAB, ".run"))
        self.clusters = os.path.join(self.root, "clusters")
        self.state_file = os.path.join(self.root, "lab.json")
        self.ceph = ceph
        self.a, self.b = (Site(self, name) for name in SITES)
        self.sites = (self.a, self.b)
        self.processes = {}
        self.children = {}  # those that this process has started itself
        self.watcher = None
        self.ended = False
        self.starting = threading.Lock()  # or ending
        self.rate = 20  # records per second that a VM writes
        self.programs = []  # folders that stand first in the sites' PATH
        target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(REPOSITORY, "target")
        # another one is for a test that has to fail with an earlier release
        self.binary = os.environ.get("ONEMIRROR_LAB_BINARY") or os.path.join(target, "debug/onemirror")
        self.front_end = os.path.join(target, "debug/lab-front-end")
        if os.path.exists(self.state_file):
            self.load()

    def other(self, site):
        return self.b if site is self.a else self.a

    @property
    def run_prefix(self):
        """What has to stand before a program that uses the clusters' own librbd."""
        path = os.path.join(self.clusters, "run-prefix")
        return open(path).read().strip() if os.path.exists(path) else ""

    # ------------------------------------------------------------ processes

    @property
    def environment(self):
        """By its last variable the lab knows every process that was started for it, and all that these start."""
        return dict(os.environ, ONEMIRROR_LAB_ROOT=self.root)

    def at_work(self):
        """The processes that were started for this lab, from Ceph's daemons to a call of rbd."""
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in pids if "ONEMIRROR_LAB_ROOT=" + self.root in environment_of(pid)]

    def end_processes(self):
        def are_gone():
            # again and again: what is being started meanwhile is not seen by one look
            pids = self.at_work()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids
        wait_until("the lab's processes to end", are_gone, 30)
        for child in self.children.values():
            child.wait()
        self.processes, self.children = {}, {}

    def watch(self):
        """From now on the lab ends with this process, however that ends."""
        environment = dict(os.environ, PYTHONPATH=LAB, PYTHONDONTWRITEBYTECODE="1")
        # it may say nothing: whoever reads our output would wait for its end
        self.watcher = subprocess.Popen(
            [sys.executable, "-m", "harness.watcher", self.root], env=environment, cwd="/", start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def keep(self):
        """The lab stays when this process ends."""
        if self.watcher:
            with contextlib.suppress(BrokenPipeError):
                self.watcher.communicate(b".")
            self.watcher = None

    def spawn(self, name, command, **options):
        # in a session of its own: ^C in the terminal is for the lab to handle, not for its parts
        with self.starting:
            self.refuse_if_ended()
            options.setdefault("env", self.environment)
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
            self.processes[name], self.children[name] = process.pid, process
            self.save()
        return process

    def refuse_if_ended(self):
        """A thread that a test or a drill has left behind starts nothing again."""
        if self.ended:
            raise LabError("the lab is down")

    def kill(self, name):
        pid = self.processes.pop(name, None)
        self.children.pop(name, None)
        if pid and "lab-front-end" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            wait_until("%s to end" % name, lambda: "lab-front-end" not in command_line(pid), 10)
        self.save()

    def save(self):
        state = {"ceph": self.ceph, "processes": self.processes,
                 "datastores": {site.name: site.datastores for site in self.sites}}
        with open(self.state_file + ".new", "w") as file:
            json.dump(state, file)
        os.rename(self.state_file + ".new", self.state_file)

    def load(self):
        with open(self.state_file) as file:
            state = json.load(file)
        self.ceph, self.processes = state["ceph"], state["processes"]
        for site in self.sites:
            site.datastores = state["datastores"].get(site.name, {})

    def run_clusters(self, verb, *arguments):
        if verb != "down":
            self.refuse_if_ended()
        options = ["--ceph", self.ceph] if self.ceph and verb == "up" else []
        run([os.path.join(LAB, "clusters"), verb, "--root", self.clusters, *options, *arguments],
            env=None if verb == "down" else self.environment, timeout=300)

    def repair(self):
        """Starts whatever a test that failed half-way has left stopped."""
        status = run([os.path.join(LAB, "clusters"), "status", "--root", self.clusters], check=False)
        if status.returncode != 0:
            for site in self.sites:
                site.clusters("site-back")

    def clear(self):
        """Takes away all VMs and images: with each that a test leaves behind, every look at all of them takes longer."""
        for site in self.sites:
            site.control("hooks=deliver", "answer=ok", "answer_delay=0", "forget")
        start = time.monotonic()

        def is_empty():
            # a copy goes with the primary one, unless there is none: then it is made one
            patient = time.monotonic() - start < 10
            return not any([site.remove_image(image, patient) for site in self.sites for image in site.rbd_images()])
        wait_until("all images to be gone", is_empty, 60, 0.5)

    # ------------------------------------------------------------ life

    def up(self):
        if os.path.exists(self.root):
            raise LabError("%s exists: a lab runs already; lab/down ends it" % self.root)
        os.makedirs(self.root)
        self.watch()
        self.ended = False
        self.save()
        self.run_clusters("up")
        for site in self.sites:
            site.front_end_start()
            site.populate()
        for site in self.sites:
            site.install()
            site.configure()

    def down(self):
        with self.starting:
            self.ended = True
        self.end_processes()
        if os.path.exists(os.path.join(LAB, "clusters")):
            self.run_clusters("down")
        self.unmount_disks()
        shutil.rmtree(self.root, ignore_errors=True)
        self.keep()

    def unmount_disks(self):
        """Full disks that a drill has put into a site, and had no time to take out."""
        with open("/proc/self/mounts") as mounts:
            ours = [line.split()[1] for line in mounts if line.split()[1].startswith(self.root + "/site-")]
        for folder in reversed(ours):
            subprocess.run(["umount", "--lazy", folder], check=False)

    # ------------------------------------------------------------ a VM on both sites

    def vm_with_three_disks(self, name):
        """A VM at home: persistent in the journal pool, non-persistent, persistent in the snapshot pool; its
        images registered on the recovery site as they get there. Returns a Machine."""
        a = self.a
        images = [
            a.image_create(name + "-data", "one", True),
            a.image_create(name + "-base", "one", False),
            a.image_create(name + "-snapshot", "two", True),
        ]
        a.rbd("mirror", "image", "enable", a.source(images[2]), "snapshot")
        return Machine(self, name, a.vm_create(name, images))

    def vm_with_one_disk(self, name, mode, context=True):
        # pool one mirrors every image that has a journal
        pool = "one" if mode == "journal" else "two"
        image = self.a.image_create(name + "-disk", pool, True)
        if pool == "two":
            self.a.rbd("mirror", "image", "enable", self.a.source(image), mode.split(",")[0])
        return Machine(self, name, self.a.vm_create(name, [image], context=context))


class Machine:
    """A VM with a home on one site, which is A if not said, and a double on the other."""

    def __init__(self, lab, name, home, at=None):
        self.lab, self.name, self.home = lab, name, home
        self.home_site = at or lab.a
        self.away_site = lab.other(self.home_site)
        self.home_site.wait_vm(home, "RUNNING")
        self.images = self.home_site.vm_images(home)
        self.registered = None
        self.vms_b = []
        self.may_lose_tail = []

    def wait_mirrored(self):
        for image in self.images.values():
            self.away_site.wait_replaying(image)

    def register_on_b(self):
        """What an administrator does once: the copies become images of the other site."""
        self.wait_mirrored()
        if self.registered is None:
            self.registered = [
                self.away_site.image_create("%s-%d" % (self.name, disk), image.split("/")[0], True, source=image)
                for disk, image in sorted(self.images.items())
            ]

    def start_on_b(self, mirrored=True):
        """A VM on the other site, once its images are replayed there, or as things are."""
        if mirrored:
            self.register_on_b()
        vm = self.away_site.vm_create(self.name, self.registered)
        self.vms_b.append(vm)
        return vm

    def primaries(self):
        """image → the sites where it is primary, in letters"""
        return {
            image: "".join(site.name[-1] for site in self.lab.sites if site.is_primary(image))
            for image in self.images.values()
        }

    def logs(self):
        paths = self.home_site.acknowledged(self.home)
        for vm in self.vms_b:
            paths += self.away_site.acknowledged(vm)
        return sorted(paths, key=os.path.getmtime)

    def verdicts(self, site):
        """Every record acknowledged anywhere, checked on the copies of one site."""
        strict = [log for log in self.logs() if log not in self.may_lose_tail]
        return [site.check_records(image, strict, self.may_lose_tail) for image in self.images.values()]

    def end_away(self, vm):
        """Terminates the VM of the other site."""
        self.away_site.action("terminate", vm)
        state = self.away_site.settle(vm)
        assert state == "DONE", (state, self.away_site.vm_error(vm))

    def comes_home(self):
        """The VM comes home by itself, or with the timers of both sites, as on real front-ends."""
        for _ in range(9):
            with contextlib.suppress(LabError):
                self.home_site.wait_vm(self.home, RUNNING, timeout=5)
                break
            for site in (self.away_site, self.home_site):
                site.reconcile(check=False)
        assert self.home_site.state_name(self.home) == RUNNING, self.home_site.vm_error(self.home)
        assert set(self.primaries().values()) == {self.home_site.name[-1]}

    def assert_complete(self, site):
        # a writer at work always has a record that is half written
        if site is self.home_site and site.state_name(self.home) == RUNNING:
            site.action("poweroff", self.home)
            site.wait_vm(self.home, "POWEROFF")
        for verdict in self.verdicts(site):
            assert verdict["ok"], json.dumps(verdict, indent=1)
            assert verdict["records"] > 0, verdict

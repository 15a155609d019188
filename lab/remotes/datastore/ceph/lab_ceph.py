"""What the lab's stock `ceph` actions have in common.

They behave like OpenNebula's where a plugin can tell, also where those are unkind: arguments, which image they touch,
which failure they do not see, exit status, last line of standard error. They find credentials as those do, in the
VM's disks (actions of `tm`) or in the document that they are given (actions of `datastore`), and really call rbd.

The class Rbd has what OpenNebula's src/datastore_mad/remotes/ceph/ceph_utils.sh has, function by function; the real
actions read that file from where the lab's find this one.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
import xmlrpc.client


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


def ask(method, *arguments):
    """Calls the front-end as every one* command does: its address and the session are in $HOME/.one."""
    home = os.path.expanduser("~")
    with open(os.path.join(home, ".one/one_auth")) as file:
        session = file.read().rstrip()
    with open(os.path.join(home, ".one/one_endpoint")) as file:
        endpoint = file.read().strip()
    answer = getattr(xmlrpc.client.ServerProxy(endpoint), method)(session, *arguments)
    if not answer[0]:
        fail(answer[1])
    return xml.etree.ElementTree.fromstring(answer[1])


def attributes(element):
    return {child.tag: child.text or "" for child in element}


def datastore(number):
    return attributes(ask("one.datastore.info", int(number), False).find("TEMPLATE"))


def vm_state(vm):
    """The number of the VM's LCM state."""
    return int(ask("one.vm.info", int(vm), False).findtext("LCM_STATE"))


def disk(vm, number):
    for found in ask("one.vm.info", int(vm), False).iterfind("TEMPLATE/DISK"):
        values = attributes(found)
        if values["DISK_ID"] == number:
            return values
    fail("VM %s has no disk %s" % (vm, number))


def split(argument):
    """host:path → host, path"""
    host, _, path = argument.partition(":")
    return host, path


def disk_number(path):
    """The N of .../disk.N, or None for the VM's directory."""
    name = os.path.basename(path)
    return name[len("disk.") :] if name.startswith("disk.") else None


def disk_image(values, vm, number):
    """The RBD image of a disk that has a SOURCE, as most actions name it."""
    return values.get("SOURCE", "") if values.get("CLONE") == "NO" else "%s-%s-%s" % (values.get("SOURCE", ""), vm, number)


def backup_image(values, vm, number):
    """The RBD image of any disk that is on Ceph, else None, as src/tm_mad/lib/ceph.rb (Disk) names it."""
    kind = values.get("TYPE", "").upper()
    if kind == "RBD":
        return disk_image(values, vm, number)
    if kind == "FS" and values.get("DISK_TYPE", "").upper() == "RBD":
        return "%s/one-sys-%s-%s" % (pool(values), vm, number)
    return None


def pool(values):
    """POOL_NAME, else that of etc/datastore/ceph/ceph.conf."""
    return values.get("POOL_NAME") or "one"


def trash(values):
    return values.get("CEPH_TRASH", "") in ("yes", "YES", "true", "TRUE")


class Rbd:
    def __init__(self, values):
        self.words = os.environ.get("ONEMIRROR_LAB_RUN", "").split() + ["rbd"]
        for option, name in (("--id", "CEPH_USER"), ("--keyfile", "CEPH_KEY"), ("--conf", "CEPH_CONF")):
            if values.get(name):
                self.words += [option, values[name]]
        self.errors = []  # what the commands complained of, for the log

    def run(self, *words, **options):
        """Runs rbd; its result with `returncode`, `stdout`, `stderr`."""
        result = subprocess.run(
            self.words + list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            **options
        )
        if result.returncode != 0:
            self.errors += result.stderr.strip().splitlines()[-3:]
        return result

    def done(self, *words):
        """Runs rbd and tells whether it succeeded."""
        return self.run(*words).returncode == 0

    def fail(self, message):
        """The commands' last words go to the log and the message becomes the reason, as ssh_exec_and_log has it."""
        for line in self.errors[-3:]:
            print("ERROR: %s: %s" % (os.path.basename(sys.argv[0]), line), file=sys.stderr)
        fail(message)

    def must(self, message, *words):
        """Runs rbd; what it printed, or the end of the action."""
        result = self.run(*words)
        if result.returncode != 0:
            self.fail(message)
        return result.stdout

    def exists(self, image):
        return self.done("info", image)

    def format(self, image):
        """rbd_format: "2", "1", or nothing for an image that can't be read."""
        found = re.search(r"format: (.+)", self.run("info", image).stdout)
        return found.group(1).strip() if found else ""

    def snapshots(self, image):
        listed = self.run("snap", "ls", "--format", "json", image)
        return [entry["name"] for entry in json.loads(listed.stdout)] if listed.returncode == 0 else []

    def make_snap(self, image):
        """rbd_make_snap: @snap makes an image a base for clones; a failure is not noticed."""
        if self.format(image) == "2" and not self.exists(image + "@snap"):
            self.done("snap", "create", "--no-progress", image + "@snap")
            self.done("snap", "protect", image + "@snap")

    def remove_snap(self, image, name="snap"):
        """rbd_rm_snap: whether the last command succeeded; that the image is missing is not noticed."""
        snapshot = "%s@%s" % (image, name)
        if self.format(image) != "2" or not self.exists(snapshot):
            return True
        self.done("snap", "unprotect", snapshot)  # refused while a clone of the old format hangs on it
        return self.done("snap", "rm", "--no-progress", snapshot)

    def find_snap(self, image, name):
        """rbd_find_snap: the image that has that snapshot now: itself, or one that a revert has renamed."""
        if name in self.snapshots(image):
            return image
        pool, _, volume = image.partition("/")
        wanted = re.compile(r"%s-(.+:)?%s(:|$)" % (volume, name))
        found = [listed for listed in self.run("ls", pool).stdout.split() if wanted.search(listed)]
        return "%s/%s" % (pool, found[0]) if found else None

    def rename_or_remove(self, name, image):
        """rbd_rename_rm: an image with snapshots is kept as NAME-1:2, one without is removed."""
        numbers = [snapshot for snapshot in self.snapshots(image) if snapshot[:1].isdigit()]
        if numbers:
            return self.done("rename", image, "%s-%s" % (name, ":".join(numbers)))
        return self.done("rm", "--no-progress", image)

    def parent(self, image):
        """rbd_get_parent, without its snapshot; nothing if there is none."""
        found = re.search(r"parent: (\S+)", self.run("info", image).stdout)
        return found.group(1).partition("@")[0] if found else ""

    def top_parent(self, image):
        """rbd_top_parent: what is removed in place of `image`.

        Goes up while the parent's name *contains* the image's: a reverted disk leads to what it was, which has its
        snapshots. So does, by mistake, one-1 that was cloned from one-12.
        """
        # trim_snapshot_suffix
        name = re.sub(r"([^-]*-[0-9]*-[0-9]*-[0-9]*).*", r"\1", image, count=1)
        while True:
            parent = self.parent(image)
            if not parent or not re.search(name, parent):
                return image
            image = parent

    def remove_tree(self, image, to_trash=False):
        """rbd_rm_r: an image or snapshot with everything that hangs on it; whether the last command succeeded."""
        base, _, snapshot = image.partition("@")
        if snapshot:
            for child in self.run("children", image).stdout.split():
                self.remove_tree(child)
            self.done("snap", "unprotect", image)
            return self.done("snap", "rm", "--no-progress", image)
        if to_trash:
            self.done("flatten", "--no-progress", image)
            return self.done("trash", "move", image)
        for name in self.snapshots(image):
            self.remove_tree("%s@%s" % (base, name))
        return self.done("rm", "--no-progress", image)


def make_directory(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)


def remove_directory(path, vm):
    """Removes the directory of a VM, and nothing that does not look like one."""
    path = os.path.normpath(path)
    ours = os.path.normpath(os.path.join(os.environ["ONE_LOCATION"], "var/datastores"))
    if path.startswith(ours + "/") and os.path.basename(path) == vm:
        shutil.rmtree(path, ignore_errors=True)
    else:
        fail("Error deleting %s" % path)

"""What the lab's stock `ceph` actions have in common.

They behave like OpenNebula's where a plugin can tell: arguments, which image they touch, what they leave alone,
exit status, last line of standard error. They find credentials by asking the front-end, and really call rbd.
"""
import json
import os
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


class Rbd:
    def __init__(self, values):
        self.words = os.environ.get("ONEMIRROR_LAB_RUN", "").split() + ["rbd"]
        for option, name in (("--id", "CEPH_USER"), ("--keyfile", "CEPH_KEY"), ("--conf", "CEPH_CONF")):
            if values.get(name):
                self.words += [option, values[name]]

    def run(self, *words):
        """Runs rbd; its result with `returncode`, `stdout`, `stderr`."""
        return subprocess.run(
            self.words + list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def must(self, message, *words):
        """Runs rbd; if it fails, its last words go to the log and the message becomes the reason."""
        result = self.run(*words)
        if result.returncode != 0:
            for line in result.stderr.strip().splitlines()[-3:]:
                print("ERROR: %s: %s" % (os.path.basename(sys.argv[0]), line), file=sys.stderr)
            fail(message)
        return result.stdout

    def exists(self, image):
        return self.run("info", image).returncode == 0

    def snapshot(self, image, name):
        """The snapshot's entry, or None; fails if the image can't be read."""
        listed = json.loads(self.must("Error reading the snapshots of %s" % image, "snap", "ls", "--format", "json", image))
        return next((entry for entry in listed if entry["name"] == name), None)

    def remove_base_snapshot(self, image, message):
        """Removes @snap, which makes an image a base for clones."""
        entry = self.snapshot(image, "snap")
        if entry is None:
            return
        if str(entry.get("protected", "")).lower() == "true":
            self.must(message, "snap", "unprotect", image + "@snap")
        self.must(message, "snap", "rm", "--no-progress", image + "@snap")


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

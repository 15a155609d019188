"""Root directories of Debian to install things into, and what can be seen of them."""
import hashlib
import os
import shutil
import stat
import subprocess

from .laboratory import LAB, LabError, run

# what package managers and the system keep for themselves
NOT_OURS = (
    "dev", "proc", "run", "sys", "tmp", "root", "etc/ld.so.cache", "var/cache", "var/log/apt", "var/log/dpkg.log",
    "var/log/alternatives.log", "var/lib/dpkg", "var/lib/rpm", "var/lib/rpm-state", "usr/lib/sysimage", "var/lib/systemd",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tree(top, folders=("",), without=()):
    """Path → what it is, its mode and owner, and its content, of everything below the folders of `top`."""
    seen = {}
    without = {os.path.join(top, path) for path in without}
    for folder in folders:
        for root, directories, files in os.walk(os.path.join(top, folder)):
            directories[:] = [name for name in directories if os.path.join(root, name) not in without]
            for path in [root, *(os.path.join(root, name) for name in files)]:
                if path not in without:
                    seen[os.path.relpath(path, top)] = look(path)
            links = (os.path.join(root, name) for name in directories)
            seen.update((os.path.relpath(path, top), look(path)) for path in links if os.path.islink(path))
    return seen


def look(path):
    what = os.lstat(path)
    content = os.readlink(path) if stat.S_ISLNK(what.st_mode) else ""
    if stat.S_ISREG(what.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    return oct(what.st_mode), what.st_uid, what.st_gid, content


class Root:
    """A copy of a bare root of a Debian suite, in `folder`."""

    def __init__(self, suite, folder):
        run([os.path.join(LAB, "packages"), "--bare", suite])
        self.folder = str(folder)
        run(["cp", "--archive", "--reflink=auto", os.path.join(LAB, ".cache/bare-" + suite), self.folder])
        # debootstrap leaves that to installers
        self.write("/etc/hosts", "127.0.0.1 localhost\n")

    def path(self, path):
        return os.path.join(self.folder, path.lstrip("/"))

    def run(self, *command, check=True, **variables):
        """Runs a program in it, with a /proc and a process table of its own."""
        inside = 'mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        result = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, self.folder, *command],
            env=dict(variables, PATH=PATH, HOME="/root", LANG="C.UTF-8"), text=True, capture_output=True, timeout=300,
        )
        if check and result.returncode != 0:
            raise LabError("%s: exit status %d\n%s%s" % (" ".join(command), result.returncode, result.stdout, result.stderr))
        return result

    def write(self, path, text, mode=0o644, owner=(0, 0)):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w") as file:
            file.write(text)
        os.chmod(self.path(path), mode)
        os.chown(self.path(path), *owner)

    def read(self, path):
        with open(self.path(path)) as file:
            return file.read()

    def copy(self, source, path):
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        shutil.copy(source, self.path(path))

    def tree(self):
        return tree(self.folder, without=NOT_OURS)

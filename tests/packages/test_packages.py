"""Installed, upgraded and removed on bare systems, beside a package of ours that owns what OpenNebula's package owns."""
import os
import re
import subprocess
import sys

import pytest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(REPOSITORY, "lab"))
from harness.laboratory import LAB, run, wait_until  # noqa: E402
from harness.roots import Root  # noqa: E402

ONEADMIN = 9869, 9869
PORT = 2633  # where every one* command looks for oned
ENDPOINT = "http://127.0.0.1:%d/RPC2" % PORT
GLIBC = (2, 31)  # the oldest that the program is to start with
# the second version brings an action more
ACTIONS = {1: ["tm/ceph/" + name for name in "clone context cpds delete ln mkimage mvds mvds.ssh".split()]}
ACTIONS[1] += ["datastore/ceph/" + name for name in "ceph_utils.sh cp rm".split()]
ACTIONS[2] = ACTIONS[1] + ["tm/ceph/clone.ssh", "datastore/ceph/snap_revert"]
WRAPPED = re.compile(r"(tm/ceph/(clone|context|delete|ln|mkimage|mvds)(\..*)?|datastore/ceph/(rm|snap_revert))$")
HOOK = "/hooks/ft/host_error.rb"  # one of OpenNebula's own
STOCK = '#!/bin/sh\necho "stock {version} {action} $*"\n'


# ---------------------------------------------------------------- a front-end


@pytest.fixture(scope="session")
def built():
    """Folder with onemirror, its .deb and its .rpm."""
    run([os.path.join(REPOSITORY, "package")], timeout=1800)
    return os.path.join(REPOSITORY, "target/package")


class FrontEnd:
    """The stand-in for oned, where a root finds it."""

    def __init__(self, folder):
        os.makedirs(folder)
        with open(os.path.join(folder, "log"), "w") as log:
            self.process = subprocess.Popen(
                # it ends with this process, however that ends
                ["setpriv", "--pdeathsig", "KILL", "--", os.path.join(REPOSITORY, "target/debug/lab-front-end"), "serve",
                 "--location", folder, "--port", str(PORT), "--name", "one", "--remotes", os.path.join(LAB, "remotes")], stdout=log, stderr=log,
            )
        auth = os.path.join(folder, "var/.one/one_auth")
        wait_until("the front-end", lambda: os.path.exists(auth) and self.answers(auth), 30)

    def answers(self, auth):
        import pyone

        with open(auth) as file:
            self.session = file.read().strip()
        self.one = pyone.OneServer(ENDPOINT, session=self.session)
        try:
            return self.one.system.version()
        except OSError:
            return None

    def hooks(self):
        return sorted(hook.NAME for hook in self.one.hookpool.info().HOOK)


@pytest.fixture
def front_end(tmp_path):
    found = FrontEnd(str(tmp_path / "front-end"))
    yield found
    found.process.kill()
    found.process.wait()


# ---------------------------------------------------------------- packages of the stock actions


class Debian:
    """dpkg, and OpenNebula's package as dpkg knows it."""

    onemirror = "onemirror.deb"

    def __init__(self, root):
        self.root = root

    def put_stock(self, version):
        root = self.root
        tree = "/tmp/one-%d" % version
        for action in ACTIONS[version]:
            root.write(tree + "/var/lib/one/remotes/" + action, STOCK.format(version=version, action=action), 0o755)
        root.write(tree + "/var/lib/one/remotes" + HOOK, "", 0o755)
        root.write(tree + "/DEBIAN/control", "Package: opennebula\nVersion: %d\nArchitecture: all\n"
                   "Maintainer: nobody <nobody@example.org>\nDescription: the transfer driver of an OpenNebula\n" % version)
        # as OpenNebula's own package does
        root.write(tree + "/DEBIAN/postinst", "#!/bin/sh\nchown -R oneadmin:oneadmin /var/lib/one/remotes\n", 0o755)
        root.run("dpkg-deb", "--build", tree, "/tmp/one.deb")
        root.run("dpkg", "--install", "/tmp/one.deb")

    def put_onemirror(self, built):
        self.root.copy(os.path.join(built, self.onemirror), "/tmp/onemirror.deb")
        return self.root.run("dpkg", "--install", "/tmp/onemirror.deb")

    def remove_onemirror(self):
        self.root.run("dpkg", "--purge", "onemirror")

    def owner(self, path):
        # after the lines on the diversion
        return self.root.run("dpkg", "--search", path).stdout.splitlines()[-1].split(":")[0]


class RedHat:
    """rpm, and OpenNebula's package as rpm knows it."""

    SPEC = """Name: opennebula
Version: {version}
Release: 1
Summary: the transfer driver of an OpenNebula
License: none
BuildArch: noarch
%description
The transfer driver of an OpenNebula
%install
cp -r /tmp/one-{version}/. %{{buildroot}}
%files
%defattr(-, oneadmin, oneadmin)
/var/lib/one/remotes
"""

    def __init__(self, root):
        self.root = root

    def put_stock(self, version):
        root = self.root
        for action in ACTIONS[version]:
            root.write("/tmp/one-%d/var/lib/one/remotes/%s" % (version, action),
                       STOCK.format(version=version, action=action), 0o755)
        root.write("/tmp/one-%d/var/lib/one/remotes%s" % (version, HOOK), "", 0o755)
        root.write("/tmp/one.spec", self.SPEC.format(version=version))
        root.run("rpmbuild", "-bb", "--define", "_rpmdir /tmp/rpms", "/tmp/one.spec")
        # what Debian has of rpm's requirements rpm does not know
        root.run("rpm", "--upgrade", "--oldpackage", "--nodeps", "/tmp/rpms/noarch/opennebula-%d-1.noarch.rpm" % version)

    def put_onemirror(self, built):
        self.root.copy(os.path.join(built, "onemirror.rpm"), "/tmp/onemirror.rpm")
        return self.root.run("rpm", "--install", "--nodeps", "/tmp/onemirror.rpm")

    def remove_onemirror(self):
        self.root.run("onemirror", "setup", "--uninstall", "--purge")
        self.root.run("rpm", "--erase", "onemirror")

    def owner(self, path):
        return self.root.run("rpm", "--query", "--file", "--queryformat", "%{NAME}", path).stdout


class Machine:
    """A bare root with the stock actions on it, and what onemirror is asked there."""

    remotes = "/var/lib/one/remotes"
    program = "onemirror"
    location = {}

    def __init__(self, suite, folder, front_end):
        self.root = Root(suite, folder)
        self.front_end = front_end
        self.root.run("groupadd", "--gid", str(ONEADMIN[1]), "oneadmin")
        self.root.run("useradd", "--uid", str(ONEADMIN[0]), "--gid", "oneadmin", "--home-dir", "/var/lib/one", "oneadmin")
        self.root.write("/var/lib/one/.one/one_auth", front_end.session + "\n", 0o600, ONEADMIN)
        os.chown(self.root.path("/var/lib/one"), *ONEADMIN)
        self.root.write("/tmp/peer_auth", "oneadmin:of-the-other-site\n", 0o600)
        for path in ("/etc/one", "/var/log/one"):
            os.makedirs(self.root.path(path), exist_ok=True)
            os.chown(self.root.path(path), *ONEADMIN)

    def setup(self, *words, check=True, script=None):
        program = (script,) if script else (self.program, "setup")
        return self.root.run(*program, *words, check=check, **self.location)

    def set_up(self, **way):
        return self.setup("--role", "home", "--peer-endpoint", ENDPOINT, "--peer-auth", "/tmp/peer_auth", **way)

    def action(self, name):
        driver = self.remotes + "/" + name
        words = ["one:one/one-1", "host:/var/lib/one/datastores/0/99/disk.0", "99", "1"]
        return self.root.run("setpriv", "--reuid=oneadmin", "--regid=oneadmin", "--clear-groups", driver, *words, check=False,
                             **self.location)

    def onemirror(self, *words):
        return self.root.run(self.program, *words, **self.location)

    def assert_works(self, version):
        """A wrapper for each action of that version that wants one; behind it onemirror, and behind that the stock action."""
        check = self.setup("--check", check=False)
        assert check.returncode == 0, check.stdout + check.stderr
        assert self.front_end.hooks(), "no hooks"
        for name in ACTIONS[version]:
            text = self.root.read(self.remotes + "/" + name)
            assert ("onemirror" in text) == bool(WRAPPED.match(name)), name
        # nobody knows VM 99, so onemirror does not let it boot; switched off it is not asked
        refused = self.action("tm/ceph/ln")
        assert refused.returncode != 0 and "99" in refused.stderr and "stock" not in refused.stdout, refused
        self.onemirror("off", "--reason", "test")
        for name in ACTIONS[version]:
            said = self.action(name)
            assert said.stdout.startswith("stock %d %s " % (version, name)), (name, said)
        self.onemirror("on")

    def remember(self, manager):
        """What the machine is without onemirror, with each version of the stock actions."""
        without = {}
        for version in (2, 1):
            manager.put_stock(version)
            without[version] = self.root.tree()
        return without


def assert_without_a_trace(machine, before):
    after = machine.root.tree()
    assert {path: (before.get(path), after.get(path)) for path in {*before, *after} if before.get(path) != after.get(path)} == {}
    assert machine.front_end.hooks() == []


@pytest.mark.parametrize("manager, suite", [(Debian, "bookworm"), (Debian, "trixie"), (RedHat, "trixie")])
def test_a_package_is_installed_survives_an_upgrade_and_leaves_no_trace(manager, suite, built, front_end, tmp_path):
    machine = Machine(suite, tmp_path / "root", front_end)
    packages = manager(machine.root)
    without = machine.remember(packages)

    assert "onemirror setup --role home" in packages.put_onemirror(built).stdout
    assert machine.action("tm/ceph/mvds").stdout.startswith("stock 1 tm/ceph/mvds")
    machine.set_up()
    machine.assert_works(1)
    again = machine.setup("--role", "home")
    assert "nothing to do" in again.stdout

    packages.put_stock(2)
    machine.assert_works(2)
    assert packages.owner(machine.remotes + "/tm/ceph/mvds") == "opennebula"

    packages.remove_onemirror()
    assert_without_a_trace(machine, without[2])


def test_install_sh_beside_a_package_survives_its_upgrade_and_gives_way_to_a_package_of_onemirror(built, front_end, tmp_path):
    machine = Machine("trixie", tmp_path / "root", front_end)
    packages = Debian(machine.root)
    script = with_script(machine, built)
    without = machine.remember(packages)

    machine.set_up(script=script)
    machine.assert_works(1)
    packages.put_stock(2)
    # dpkg has put the stock actions where they belong; nobody has wrapped the new one
    assert "clone.ssh" in machine.setup("--check", check=False).stdout
    machine.setup("--repair")
    machine.assert_works(2)

    # a package takes over, with units of its own
    units = "/etc/systemd/system/onemirror-reconcile."
    assert os.path.exists(machine.root.path(units + "timer"))
    packages.put_onemirror(built)
    assert not any(os.path.exists(machine.root.path(units + kind)) for kind in ("timer", "service"))
    machine.assert_works(2)

    packages.remove_onemirror()
    assert_without_a_trace(machine, without[2])


def test_a_self_contained_front_end_survives_an_upgrade_and_is_left_without_a_trace(built, front_end, tmp_path):
    machine = Machine("trixie", tmp_path / "root", front_end)
    machine.location = {"ONE_LOCATION": "/srv/one"}
    machine.remotes, machine.program = "/srv/one/var/remotes", "/srv/one/bin/onemirror"
    script = with_script(machine, built)
    machine.root.write("/srv/one/var/.one/one_auth", front_end.session + "\n", 0o600, ONEADMIN)
    for path in ("bin", "etc", "share", "var"):
        os.makedirs(machine.root.path("/srv/one/" + path), exist_ok=True)

    def put_stock(version):
        # as install.sh of OpenNebula: over whatever is there
        for action in ACTIONS[version]:
            path = "%s/%s" % (machine.remotes, action)
            machine.root.write(path, STOCK.format(version=version, action=action), 0o755)
        machine.root.write(machine.remotes + HOOK, "", 0o755)
        machine.root.run("chown", "-R", "oneadmin:oneadmin", "/srv/one")

    put_stock(2)
    without = machine.root.tree()
    for action in set(ACTIONS[2]) - set(ACTIONS[1]):
        os.remove(machine.root.path(os.path.join(machine.remotes, action)))
    put_stock(1)
    machine.set_up(script=script)
    machine.assert_works(1)
    put_stock(2)
    check = machine.setup("--check", check=False)
    assert check.returncode == 1 and "mvds" in check.stdout
    machine.setup("--repair")
    machine.assert_works(2)
    machine.setup("--uninstall", "--purge", script=script)
    assert_without_a_trace(machine, without)


def with_script(machine, built):
    """install.sh and the program, unpacked where an administrator would."""
    for source in (os.path.join(REPOSITORY, "install.sh"), os.path.join(built, "onemirror")):
        machine.root.copy(source, "/opt/onemirror/" + os.path.basename(source))
    return "/opt/onemirror/install.sh"


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_package_on_a_bare_system(suite, built, tmp_path):
    """No OpenNebula there: the program, its manual and its completions work, and it goes without a trace."""
    root = Root(suite, tmp_path / "root")
    before = root.tree()
    root.copy(os.path.join(built, "onemirror.deb"), "/tmp/onemirror.deb")
    root.run("dpkg", "--install", "/tmp/onemirror.deb")
    assert re.fullmatch(r"onemirror \d+\.\d+\.\d+\n", root.run("onemirror", "--version").stdout)
    for page in ("onemirror", "onemirror-setup", "onemirror-failover"):
        manual = root.run("man", "--pager=cat", page).stdout
        assert page.upper() in manual.upper() and "SYNOPSIS" in manual
    assert root.run("bash", "-c", COMPLETE, "bash", "do").stdout.split() == ["doctor"]
    root.run("dpkg", "--purge", "onemirror")
    assert root.tree() == before


# what bash does when somebody types `onemirror do<Tab>`
COMPLETE = """
. /usr/share/bash-completion/bash_completion
_completion_loader onemirror
COMP_WORDS=(onemirror "$1") COMP_CWORD=1 COMP_LINE="onemirror $1" COMP_POINT=${#COMP_LINE}
function=$(complete -p onemirror | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" onemirror "$1" onemirror
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_the_program_starts_with_an_old_glibc(built):
    symbols = run(["readelf", "--version-info", os.path.join(built, "onemirror")]).stdout
    versions = {tuple(map(int, number.split("."))) for number in re.findall(r"GLIBC_(\d+\.\d+)", symbols)}
    assert versions and max(versions) <= GLIBC

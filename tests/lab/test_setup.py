"""install.sh on the lab's front-ends: again, undone, overwritten by an upgrade, and killed at each of its steps."""
import hashlib
import os
import re
import shutil
import stat
import subprocess

import pytest
from conftest import full
from harness.laboratory import LAB, REPOSITORY

# whatever changes a file, a folder or the front-end
STEPS = "openat rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat rmdir fchmod fchmodat chmod connect".split()
WAYS = ("--no-timer",)


def tree(site):
    """Everything below the front-end that setup may touch: what it is, its mode and owner, and its content."""
    seen = {}
    for folder in ("bin", "etc", "share", "var/remotes"):
        for root, folders, files in os.walk(os.path.join(site.location, folder)):
            for path in [root, *(os.path.join(root, name) for name in folders + files)]:
                what = os.lstat(path)
                content = os.readlink(path) if stat.S_ISLNK(what.st_mode) else ""
                if stat.S_ISREG(what.st_mode):
                    with open(path, "rb") as file:
                        content = hashlib.sha256(file.read()).hexdigest()
                seen[os.path.relpath(path, site.location)] = (oct(what.st_mode), what.st_uid, what.st_gid, content)
    return seen


def hooks(site):
    return sorted((hook.NAME, sorted(hook.TEMPLATE.items())) for hook in site.one.hookpool.info().HOOK)


def actions(site, driver="tm/ceph"):
    return os.path.join(site.location, "var/remotes", driver)


def stock_actions():
    """Of both drivers: whose, and its file name."""
    for driver in ("tm/ceph", "datastore/ceph"):
        for name in os.listdir(os.path.join(LAB, "remotes", driver)):
            if not name.endswith((".py", ".sh")):
                yield driver, name


def assert_in_place(site):
    check = site.setup("--check", *WAYS, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


def assert_works(site):
    """Every action is a whole script, and the program and the stock action are there for each that needs them."""
    for driver, name in stock_actions():
        path = os.path.join(actions(site, driver), name)
        with open(path) as file:
            text = file.read()
        assert os.access(path, os.X_OK) and text.endswith("\n"), path
        if "/bin/onemirror" in text:
            stock = os.path.join(actions(site, driver + ".stock"), name)
            assert os.access(stock, os.X_OK) and os.access(os.path.join(site.location, "bin/onemirror"), os.X_OK), path
            with open(stock) as file:
                assert "/bin/onemirror" not in file.read(), stock


@pytest.fixture
def installed(a):
    """The front-end before and after; it is set up again whatever a test has done to it."""
    yield a
    a.setup("--role", a.role, *WAYS)
    a.configure()
    assert_in_place(a)


def reinstall(site, check=True):
    peer = site.lab.other(site)
    return site.setup("--role", site.role, *WAYS, "--peer-endpoint", peer.endpoint, "--peer-auth", peer.auth_file, check=check)


def test_a_second_run_changes_nothing(installed):
    before = tree(installed), hooks(installed)
    again = installed.setup("--role", installed.role, *WAYS)
    assert "nothing to do: onemirror" in again.stdout
    assert (tree(installed), hooks(installed)) == before


def source(path):
    with open(os.path.join(REPOSITORY, path), "rb") as file:
        return file.read()


def test_what_lies_in_hooks_and_remotes_is_byte_for_byte_what_an_installation_has(installed):
    guarded = 0
    for driver, name in stock_actions():
        if os.path.exists(os.path.join(actions(installed, driver + ".stock"), name)):
            guarded += 1
            with open(os.path.join(actions(installed, driver), name), "rb") as file:
                assert file.read() == source("remotes/%s/action" % driver), name
    assert guarded >= 20
    events = sorted(name[:-len(".tmpl")] for name in os.listdir(os.path.join(REPOSITORY, "hooks")) if name != "script")
    scripts = os.path.join(installed.location, "var/remotes/hooks/onemirror")
    assert sorted(os.listdir(scripts)) == events
    registered = {hook.NAME: hook for hook in installed.one.hookpool.info().HOOK}
    for event in events:
        with open(os.path.join(scripts, event), "rb") as file:
            assert file.read() == source("hooks/script"), event
        definition = dict(line[:-1].split(' = "') for line in source("hooks/%s.tmpl" % event).decode().splitlines())
        hook = registered[definition.pop("NAME")]
        assert hook.TYPE == definition.pop("TYPE")
        definition.pop("ON", None)
        assert dict(hook.TEMPLATE.items()) == definition, event


def test_wrappers_of_an_older_version_are_known_and_replaced(installed):
    name = "clone.ssh"
    path, stock = os.path.join(actions(installed), name), os.path.join(actions(installed, "tm/ceph.stock"), name)
    with open(stock, "rb") as file:
        before = file.read()
    # as 0.1.0 wrote them: the version in a comment, the action in the line
    with open(path, "w") as file:
        file.write('#!/bin/sh\n# onemirror 0.1.0, in front of the stock action. Made by onemirror setup.\n'
                   'exec "${ONE_LOCATION:-/usr}/bin/onemirror" tm --stock "${0%%/*}/../ceph.stock/%s" %s "$@"\n' % (name, name))
    check = installed.setup("--check", *WAYS, check=False)
    assert check.returncode == 1 and "ceph/" + name in check.stdout
    installed.setup("--repair", *WAYS)
    with open(path, "rb") as file:
        assert file.read() == source("remotes/tm/ceph/action")
    with open(stock, "rb") as file:
        assert file.read() == before
    assert_in_place(installed)


def test_what_is_taken_out_leaves_no_trace(installed):
    before = tree(installed)
    listed = installed.setup("--uninstall", "--dry-run", *WAYS).stdout
    assert "would remove" in listed and tree(installed) == before
    installed.setup("--uninstall", *WAYS)
    kept = sorted(path for path in tree(installed) if "onemirror" in path)
    assert kept == ["etc/onemirror.conf", "etc/onemirror.peer_auth"]
    installed.setup("--uninstall", "--purge", *WAYS)
    after = tree(installed)
    assert [path for path in after if "onemirror" in path or "ceph.stock" in path] == []
    assert hooks(installed) == []
    for driver, name in stock_actions():
        with open(os.path.join(LAB, "remotes", driver, name), "rb") as file:
            path = os.path.join("var/remotes", driver, name)
            assert after[path][3] == hashlib.sha256(file.read()).hexdigest(), path
    assert "nothing to do" in installed.setup("--uninstall", *WAYS).stdout
    reinstall(installed)


def test_an_upgrade_that_overwrites_the_wrappers_is_noticed_and_mended(installed):
    stock = os.path.join(actions(installed), "ln")
    shutil.copy(os.path.join(LAB, "remotes/tm/ceph/ln"), stock + ".new")
    with open(stock + ".new", "a") as file:
        file.write("# as the next version has it\n")
    os.rename(stock + ".new", stock)
    check = installed.setup("--check", *WAYS, check=False)
    assert check.returncode == 1 and "ceph/ln" in check.stdout
    installed.setup("--repair", *WAYS)
    assert_in_place(installed)
    with open(os.path.join(installed.location, "var/remotes/tm/ceph.stock/ln")) as file:
        assert file.read().endswith("# as the next version has it\n")
    installed.setup("--uninstall", *WAYS)
    with open(stock) as file:
        assert file.read().endswith("# as the next version has it\n")


def test_hooks_that_somebody_changed_are_mended_and_others_left_alone(installed):
    one = installed.one
    by_name = {hook.NAME: hook.ID for hook in one.hookpool.info().HOOK}
    mine = one.hook.allocate("NAME=mine\nTYPE=state\nRESOURCE=VM\nON=RUNNING\nCOMMAND=mine\n")
    one.hook.update(by_name["onemirror-done"], "TIMEOUT = \"1\"", 1)
    one.hook.delete(by_name["onemirror-running"])
    assert installed.setup("--check", *WAYS, check=False).returncode == 1
    installed.setup("--repair", *WAYS)
    assert_in_place(installed)
    assert [hook[1] for hook in hooks(installed) if hook[0] == "mine"] == [sorted(one.hook.info(mine).TEMPLATE.items())]
    one.hook.delete(mine)


def test_without_the_front_end_files_are_put_there_and_the_rest_is_said(installed):
    installed.front_end_kill()
    installed.setup("--uninstall", *WAYS, check=False)
    result = reinstall(installed, check=False)
    assert result.returncode == 3 and "hooks are not registered" in result.stdout
    assert_works(installed)
    installed.front_end_start()


def killed(site, step, number, *arguments):
    """Kills the installer at the n-th of these system calls; whether it came so far."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + step,
               "-e", "inject=%s:signal=SIGKILL:when=%d" % (step, number),
               os.path.join(site.location, "..", "installer"), "setup", *WAYS, *arguments]
    result = subprocess.run(command, env=site.environment, text=True, capture_output=True, check=False)
    assert result.returncode in (0, 137, -9), result.stdout + result.stderr
    return result.returncode != 0


def start_and_terminate(site):
    """A VM without a mirrored disk, from nothing to DONE."""
    vm = site.vm_create("between", [])
    site.wait_vm(vm, "RUNNING")
    site.action("terminate", vm)
    site.wait_vm(vm, "DONE")


@pytest.mark.parametrize("goal", ["install", pytest.param("uninstall", marks=full)])
def test_killed_at_each_step_and_again(installed, goal, request):
    shutil.copy(installed.lab.binary, os.path.join(installed.location, "..", "installer"))
    peer = installed.lab.other(installed)
    goals = {
        "install": ("--role", installed.role, "--peer-endpoint", peer.endpoint, "--peer-auth", peer.auth_file),
        "uninstall": ("--uninstall", "--purge"),
    }
    other = goals["uninstall" if goal == "install" else "install"]
    program = [os.path.join(installed.location, "..", "installer"), "setup", *WAYS]

    def run(arguments):
        subprocess.run([*program, *arguments], env=installed.environment, check=True, capture_output=True)

    run(other)
    run(goals[goal])
    wanted = tree(installed), hooks(installed)
    every, kills = 1 if request.config.option.full else 8, 0
    for step in STEPS:
        # every file that it opens is a step as well, but most only to read its own libraries
        for number in range(1, 400, (7 if step == "openat" else 1) * every):
            run(other)
            if not killed(installed, step, number, *goals[goal]):
                break
            kills += 1
            assert_works(installed)
            if kills % (25 // every) == 0:
                start_and_terminate(installed)
            run(goals[goal])
            assert different((tree(installed), hooks(installed)), wanted) == {}, (step, number)
    assert kills > 40 // every, "killed %d times only" % kills


def different(one, other):
    """What is not the same in two pairs of trees and hooks."""
    paths = {path: (one[0].get(path), other[0].get(path)) for path in {*one[0], *other[0]} if one[0].get(path) != other[0].get(path)}
    return paths if one[1] == other[1] else dict(paths, hooks=(one[1], other[1]))

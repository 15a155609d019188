"""Whoever has started a lab may end in any way: nothing of the lab is left."""
import contextlib
import os
import signal
import subprocess
import sys

import pytest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(REPOSITORY, "lab")
sys.path.insert(0, LAB)
from harness.laboratory import Lab, command_line, wait_until  # noqa: E402

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "rbd-mirror", "lab-front-end", "lab/writer")
# a lab that is a folder and one process, which has a child in a session of its own
OWNER = """
import os, signal, sys
from harness.laboratory import Lab
# who is started in the background of a script ignores it
signal.signal(signal.SIGINT, signal.default_int_handler)
lab = Lab(root=sys.argv[1])
os.makedirs(lab.root)
lab.watch()
lab.spawn("a process", ["sh", "-c", "setsid sleep 600 & wait"])
{then}
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def owner(root, then=""):
    with subprocess.Popen([sys.executable, "-c", OWNER.format(then=then), root], env=dict(os.environ, PYTHONPATH=LAB),
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def leaves_nothing(lab):
    wait_until("the lab to be gone", lambda: not lab.at_work() and not os.path.exists(lab.root), 60)


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
def test_a_lab_ends_with_its_owner(tmp_path, number):
    lab = Lab(root=str(tmp_path / "run"))
    with owner(lab.root) as process:
        wait_until("the child to be on its own", lambda: any(command_line(pid).startswith("sleep") for pid in lab.at_work()))
        process.send_signal(number)
        process.wait(60)
    leaves_nothing(lab)


def test_a_lab_that_is_kept_outlives_its_owner(tmp_path):
    root = str(tmp_path / "run")
    # keep() returns when the watcher has ended: nobody is left who would end the lab
    with owner(root, then="lab.keep()"):
        pass
    lab = Lab(root=root)
    assert lab.at_work() and os.path.exists(root)
    lab.down()
    leaves_nothing(lab)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a lab a network of its own")
def test_a_run_of_the_lab_tests_that_is_ended_leaves_nothing():
    lab = Lab(root=os.path.join(LAB, ".run-ended"))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tx", "popen//id=ended", "--dist", "load",
               "-k", "test_site_lost_failover_return_and_failback and deliver", os.path.join(REPOSITORY, "tests/lab")]
    environment = {name: value for name, value in os.environ.items() if name != "ONEMIRROR_LAB_KEEP"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        def runs():
            assert process.poll() is None, process.stdout.read()
            lines = "\n".join(map(command_line, lab.at_work()))
            return all(program in lines for program in PROGRAMS)
        wait_until("the lab and a VM in it to run", runs, 120)
        process.terminate()
        process.communicate(timeout=120)
    leaves_nothing(lab)

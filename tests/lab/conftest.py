"""One lab for all tests of a process. ONEMIRROR_LAB_CEPH names another release of Ceph, ONEMIRROR_LAB_KEEP=1 keeps the lab."""
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../lab"))
from harness.advice import Adviser  # noqa: E402
from harness.laboratory import LAB, Lab, end_on_signals, wait_until  # noqa: E402

# Of Linux's own headers.
CLONE_NEWNET, PR_SET_PDEATHSIG, SIOCSIFFLAGS, IFF_UP = 0x40000000, 1, 0x8914, 1
# Beside the others of its kind it shows little more: not in each run.
full = pytest.mark.full


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the tests, too, that are marked as full")


def pytest_collection_modifyitems(config, items):
    # whoever names a test wants it
    if config.option.full or config.option.keyword or any("::" in name for name in config.args):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="only with --full, or by its name"))


def pytest_configure(config):
    config.addinivalue_line("markers", "full: left out unless --full or its name is given")
    config.addinivalue_line("markers", "advice(rule, shape): types this advice; docs/advice.md lists them all")
    end_on_signals()
    if hasattr(config, "workerinput"):
        # a worker ends when the process ends that gives it its tests
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab is not None:
        for site in lab.sites:
            report.sections.append(("front-end of " + site.name, site.front_end_tells()))
    return report


def own_network():
    """A lab is always on the same ports of the loopback device, so each that runs beside another gets a network of its own."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network of its own for the lab")
    with socket.socket() as anywhere:
        fcntl.ioctl(anywhere, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


@pytest.fixture(scope="session")
def lab(request):
    root = None
    if hasattr(request.config, "workerinput"):
        own_network()
        root = os.path.join(LAB, ".run-" + request.config.workerinput["workerid"])
    lab = Lab(root=root, ceph=os.environ.get("ONEMIRROR_LAB_CEPH"))
    keep = os.environ.get("ONEMIRROR_LAB_KEEP") == "1"
    if not (keep and os.path.exists(lab.state_file)):
        try:
            lab.up()
        except BaseException:
            lab.down()
            raise
    if keep:
        lab.keep()
    yield lab
    if not keep:
        lab.down()


@pytest.fixture(scope="module", autouse=True)
def world():
    """What all tests of a module share; one that has such a fixture of its own keeps its VMs from test to test."""


@pytest.fixture(autouse=True)
def healthy(lab, world):
    """Every test finds both sites as a healthy deployment has them, and empty."""
    yield
    lab.repair()
    for site in lab.sites:
        if not site.answers():
            site.front_end_kill()
            site.front_end_start()
        site.control("hooks=deliver", "answer=ok", "answer_delay=0")
        site.configure()
        site.onemirror("on")
    if world is None:
        lab.clear()


@pytest.fixture
def adviser(lab, request):
    """Types what refusals say; what the test's marks promise has to have been typed in it."""
    adviser = Adviser(lab)
    yield adviser
    promised = {mark.args for mark in request.node.iter_markers("advice")}
    assert adviser.typed == promised, "typed %s, promised %s" % (sorted(adviser.typed), sorted(promised))


@pytest.fixture
def a(lab):
    return lab.a


@pytest.fixture
def b(lab):
    return lab.b


def snapshot_of(lab, images):
    """Role, token and marks of both copies: what must not change when something is refused."""
    seen = {}
    for site in lab.sites:
        for image in images:
            metadata = site.rbd("image-meta", "list", image, "--format", "json", check=False).stdout
            seen[site.name, image] = (site.is_primary(image), metadata)
    return seen


def settled_snapshot_of(lab, images):
    """The same once the other copies show all that was written on the primary ones."""
    by_snapshot = {image for image in images if lab.a.info(image)["mirroring"]["mode"] == "snapshot"}

    def sent(image, text):
        marks = json.loads(text or "{}")
        if image in by_snapshot:
            # it is written after the snapshot that sends the token, and goes along with the next one
            marks.pop("onemirror.booted", None)
        return marks

    def settled():
        seen = snapshot_of(lab, images)
        a, b = ({image: sent(image, seen[site.name, image][1]) for image in images} for site in lab.sites)
        return a == b and seen
    return wait_until("the marks to arrive", settled, 60, 0.5)

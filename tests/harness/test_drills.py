"""What the fault drills rest on: a seed is all there is to know of a schedule, and a kill strikes where it should."""
import http.client
import http.server
import os
import re
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request

import pytest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LAB = os.path.join(REPOSITORY, "lab")
sys.path.insert(0, LAB)
from drills import __main__ as main, faults, kill_table, plan, proxy, schedule  # noqa: E402
from harness.laboratory import Lab, LabError, wait_until  # noqa: E402

OPERATIONS = {name for after in plan.NEXT.values() for name in after} | set(plan.ANYWHERE)


def test_a_seed_always_gives_the_same_plan_and_another_seed_another():
    plans = [str(plan.plan(seed)) for seed in range(50)]
    assert plans == [str(plan.plan(seed)) for seed in range(50)]
    assert len(set(plans)) == 50


def test_the_plans_of_a_long_run_hold_every_operation_and_every_fault_often():
    steps = [step for seed in range(400) for step in plan.plan(seed).steps]
    for operation in OPERATIONS:
        assert sum(step.operation == operation for step in steps) >= 20, operation
    strikes = [strike for step in steps for strike in step.strikes]
    for kind in plan.FAULTS:
        assert sum(strike.kind == kind for strike in strikes) >= 30, kind


def test_the_drills_of_every_run_hold_what_others_do_beside_the_handoff():
    with open(os.path.join(REPOSITORY, "tests/run")) as script:
        seeds = main.seeds_of(re.search(r"tests/faults --seed ([\d,]+)", script.read()).group(1))
    steps = [step for seed in seeds for step in plan.plan(seed).steps]
    assert {"revert-home", "attach-home", "delete-image-away", "recreate-away", "cut-home", "lose-home"} <= {step.operation for step in steps}
    assert {"pool-full", "run-killed", "library-killed", "library-paused"} <= {strike.kind for step in steps for strike in step.strikes}
    homes = {schedule.Lane(types.SimpleNamespace(a="a", b="b"), None, number).home_site for number in range(len(seeds))}
    assert homes == {"a", "b"}


def test_what_a_force_gave_up_has_to_be_kept_somewhere():
    sites = [types.SimpleNamespace(name="site-a", check_records=lambda copy, logs, written_as: {"lost": 0 if logs == ["one"] else 5})]

    def judged(lost, copies, asked_by_hand=False):
        lane = schedule.Lane(types.SimpleNamespace(a=None, b=None), None, 0)
        lane.say, lane.asked_by_hand = lambda _text: None, asked_by_hand
        lane.lost_copies = lambda: [(sites[0], "pool/image", copy) for copy in copies]
        verdict = {"image": "pool/image", "may_lose_tail": [{"log": log, "lost": 3} for log in lost]}
        # what was dealt with is not counted again once the copy is dropped
        return lane.not_kept(verdict), len(lane.trouble), lane.not_kept(verdict)

    assert judged([], []) == (0, 0, 0)
    assert judged(["one"], ["pool/image.lost-1"]) == (0, 0, 0)
    assert judged(["one", "two"], ["pool/image.lost-1"]) == (1, 1, 1)
    assert judged(["one"], []) == (1, 1, 1)
    assert judged(["one"], [], asked_by_hand=True) == (0, 0, 0)


def test_operations_lead_somewhere_that_is_known():
    for after in plan.NEXT.values():
        for place, weight in after.values():
            assert place in plan.NEXT and weight > 0


def test_only_what_all_disks_have_on_the_recovery_site_must_survive_a_force():
    def lane(*verdicts):
        def answer(_site):
            for verdict in verdicts:
                if verdict is None:
                    raise schedule.LabError("no such image")
                yield {"logs": [{"log": log, "lost": lost} for log, lost in verdict.items()], "may_lose_tail": []}

        lane = schedule.Lane(types.SimpleNamespace(a=None, b=types.SimpleNamespace(name="site-b")), None, 0)
        lane.machine = types.SimpleNamespace(logs=lambda: ["one", "two"], verdicts=answer)
        lane.say = lambda _text: None
        return lane

    assert lane({"one": 0, "two": 0}, {"one": 0, "two": 3}).carried_over() == {"one"}
    assert lane({"one": 0, "two": 0}, {"one": 0, "two": 0}).carried_over() == {"one", "two"}
    assert lane({"one": 0, "two": 0}, None).carried_over() == set()


def test_groups_are_of_one_length_and_come_in_no_order_of_it():
    options = types.SimpleNamespace(seed=[1], schedules=60, minutes=None, side_by_side=6)
    groups = main.groups(options)
    assert sorted(seed for group in groups for seed in group) == list(range(1, 61))
    lengths = [[plan.plan(seed).seconds for seed in group] for group in groups]
    by_length = sorted(lengths)
    assert all(max(one) <= min(other) for one, other in zip(by_length, by_length[1:]))
    assert lengths != by_length
    some = types.SimpleNamespace(seed=[9, 3, 5], schedules=None, minutes=None, side_by_side=2)
    assert main.groups(some) == [[9, 3], [5]]


def test_a_driver_at_work_is_seen_until_it_ends(tmp_path):
    here = types.SimpleNamespace(location=str(tmp_path))
    words = ["echo ready; sleep 60; :", "context", "host:%s/var//datastores/100/7/disk.0" % tmp_path, "7", "100"]
    driver = subprocess.Popen(["sh", "-c", *words], start_new_session=True, stdout=subprocess.PIPE)
    try:
        assert driver.stdout.readline() == b"ready\n"
        wait_until("the driver to be seen", lambda: schedule.at_work(here, 7), 5)
        assert not schedule.at_work(here, 70) and not schedule.at_work(here, 100)
        assert not schedule.at_work(types.SimpleNamespace(location=str(tmp_path) + "-b"), 7)
    finally:
        os.killpg(driver.pid, 9)
        driver.communicate()
    wait_until("its end to be seen", lambda: not schedule.at_work(here, 7), 5)


# ---------------------------------------------------------------- kill -9 at the n-th call, without any cluster

@pytest.fixture
def site(tmp_path):
    """A front-end's folder, a program that passes for onemirror and calls rbd four times, and an `rbd` that notes it."""
    (tmp_path / "var/faults/calls").mkdir(parents=True)
    (tmp_path / "clusters/bin").mkdir(parents=True)
    rbd = tmp_path / "clusters/bin/rbd"
    rbd.write_text('#!/bin/sh\necho "$*" >> "%s/effects"\n' % tmp_path)
    (tmp_path / "bin").mkdir()
    onemirror = tmp_path / "bin/onemirror"
    onemirror.write_text("#!/bin/sh\nrbd one\nrbd two & wait\nrbd three\nrbd four\n: the end\n")
    for program in (rbd, onemirror):
        program.chmod(0o755)
    return tmp_path


def environment(site, **more):
    path = "%s/drills/programs:%s" % (LAB, os.environ["PATH"])
    return dict(os.environ, ONE_LOCATION=str(site), ONEMIRROR_LAB_CLUSTERS=str(site / "clusters"), PATH=path, **more)


def effects(site, armed=None, meant=""):
    if armed:
        (site / ("var/faults/armed" + ("." + meant if meant else ""))).write_text(armed + "\n")
    status = subprocess.run([site / "bin/onemirror"], env=environment(site, ONEMIRROR_LAB_MEANT=meant), check=False).returncode
    return status, (site / "effects").read_text().split()


def test_nobody_is_killed_where_nothing_is_armed(site):
    assert effects(site) == (0, ["one", "two", "three", "four"])
    assert len((site / "var/faults/calls.log").read_text().splitlines()) == 4


def test_a_kill_comes_before_or_after_the_effect_of_its_call(site):
    assert effects(site, "3 before") == (-9, ["one", "two"])
    (site / "effects").unlink()
    assert effects(site, "3 after") == (-9, ["one", "two", "three"])
    assert [line.split()[0::2][:2] for line in (site / "var/faults/struck.log").read_text().splitlines()] == [
        ["before", "3"], ["after", "3"]]


def test_a_kill_finds_its_call_by_name_wherever_it_comes(site):
    onemirror = site / "bin/onemirror"
    onemirror.write_text("#!/bin/sh\nrbd --conf=x mirror image promote a\nrbd info\nrbd --id=y mirror image promote b\nrbd info\n: the end\n")
    assert effects(site, "2 before rbd mirror image promote", meant="mine")[0] == -9
    assert len((site / "effects").read_text().splitlines()) == 2
    (site / "effects").unlink()
    assert effects(site, "3 before rbd mirror image promote", meant="other")[0] == 0


def test_what_changes_something_is_killed_by_name_and_what_reads_by_number():
    names = ["one.vm.info", "rbd --id=x info --pool=p", "rbd mirror image demote --pool=p", "rbd info", "rbd mirror image demote"]
    assert kill_table.kills(names, 2) == [(2, "before")]
    assert kill_table.kills(names, 5) == [(2, "before", "rbd mirror image demote"), (2, "after", "rbd mirror image demote")]
    # a copy that is set aside bears another date each time
    renamed = ["rbd rename --pool=p one-1 one-1.lost-20261126T164500Z"]
    assert kill_table.kills(renamed, 1) == [(1, "before", "rbd rename"), (1, "after", "rbd rename")]
    assert kill_table.kills(["one.vm.action"], 1) == [(1, "before"), (1, "after")]


def test_a_kill_strikes_once_and_only_the_run_that_is_meant(site):
    (site / "var/faults/armed.other").write_text("2 before\n")
    assert effects(site)[0] == 0
    (site / "effects").unlink()
    assert effects(site, "2 before", meant="mine") == (-9, ["one"])
    (site / "effects").unlink()
    assert effects(site, meant="mine")[0] == 0


def test_a_call_under_way_has_its_effect_after_the_death_of_its_caller(site):
    status, at_once = effects(site, "2 during")
    assert (status, at_once) == (-9, ["one"])
    end = time.monotonic() + 20
    while (site / "effects").read_text().split() != ["one", "two"] and time.monotonic() < end:
        time.sleep(0.05)
    assert (site / "effects").read_text().split() == ["one", "two"]


class FrontEnd(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls += 1
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789")


@pytest.fixture
def front_end():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FrontEnd)
    server.calls = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_the_proxy_numbers_the_calls_with_the_others_and_kills_too(site, front_end):
    stand_in = proxy.Proxy(front_end.server_address[1], "elsewhere", lambda: True)
    onemirror = site / "bin/onemirror"
    call = "import urllib.request as r; print(r.urlopen('%s', b'<methodName>one.vm.info</methodName>').read())"
    # a shell would ask by a child; the proxy wants onemirror itself
    onemirror.write_text("#!%s\nimport subprocess\nsubprocess.run(['rbd', 'one'])\n%s\n" % (sys.executable, call % stand_in.endpoint))
    assert effects(site, "2 before") == (-9, ["one"])
    assert front_end.calls == 0
    assert effects(site, "2 after") == (-9, ["one", "one"])
    assert front_end.calls == 1
    assert "one.vm.info" in (site / "var/faults/struck.log").read_text()


def test_the_proxy_breaks_answers_as_told(front_end):
    stand_in = proxy.Proxy(front_end.server_address[1], "elsewhere", lambda: False)
    ask = lambda: urllib.request.urlopen(stand_in.endpoint, b"x", timeout=10).read()  # noqa: E731
    assert ask() == b"0123456789"
    stand_in.mode = "500"
    with pytest.raises(urllib.error.HTTPError):
        ask()
    stand_in.mode = "half"
    with pytest.raises(http.client.IncompleteRead):
        ask()
    assert stand_in.struck == {"500": 1, "half": 1} and front_end.calls == 3


# ---------------------------------------------------------------- the table of kills


class Subject:
    """Its operation appends its calls to a file; whether a repeat mends what a kill has left is up to the test."""

    def __init__(self, site, mends):
        self.site, self.mends, self.round = site, mends, 0

    def sequence(self, _site):
        return 0

    def before(self, _operation):
        (self.site / "effects").write_text("")

    def command(self, _operation):
        return types.SimpleNamespace(location=str(self.site), environment=environment(self.site), name="site-a"), ["gate"]

    def rested(self, _operation):
        pass

    def after(self, _operation):
        pass

    def state(self, _base):
        seen = (self.site / "effects").read_text().split()
        return {"effects": sorted(set(seen)) if self.mends else seen}


@pytest.fixture
def three_reads(monkeypatch):
    """The third call changes nothing."""
    monkeypatch.setattr(kill_table, "CHANGES", re.compile("rbd (one|two|four)"))


def filled_table(site, mends, first):
    table = kill_table.Table.__new__(kill_table.Table)
    broken = faults.Site.__new__(faults.Site)
    broken.folder = str(site / "var/faults")
    table.lab, table.name, table.operation, table.cells = types.SimpleNamespace(sites=[None]), "gate/journal", "gate", []
    table.faults = types.SimpleNamespace(sites={"site-a": broken})
    table.subject, table.first = Subject(site, mends), first
    table.run()
    return table.cells


@pytest.mark.usefixtures("three_reads")
@pytest.mark.parametrize("mends", [True, False])
def test_the_table_tells_where_a_kill_leads_to_another_end(site, mends):
    cells = filled_table(site, mends, 1)
    rows = [row for _, _, row in cells]
    if mends:
        assert rows == [["same", "same"], ["same", "same"], ["same"], ["same", "same"]]
    else:
        # only before the first call nothing has happened
        both = ["DIFFERS", "DIFFERS"]
        assert rows == [["same", "DIFFERS"], both, ["DIFFERS"], both]
    assert kill_table.tell({"gate/journal": cells}, []) is (not mends)


def test_what_changes_something_is_killed_on_both_sides():
    for call in ("rbd mirror image demote one/one-7", "rbd image-meta set one/one-7", "rados lock get x", "one.vm.action",
                 "rbd rename one/one-7", "rbd mirror image disable one/one-7", "rbd rm one/one-7", "one.image.allocate"):
        assert kill_table.CHANGES.match(call), call
    for call in ("rbd info one/one-7", "rbd image-meta list one/one-7", "rbd mirror image status x", "rados lock list x", "one.vm.info"):
        assert not kill_table.CHANGES.match(call), call


@pytest.mark.usefixtures("three_reads")
def test_the_table_can_begin_with_a_later_call(site, capsys):
    cells = filled_table(site, True, 4)
    assert [(number, row) for number, _, row in cells] == [(4, ["same", "same"])]
    assert kill_table.tell({"gate/journal": cells}, []) is False
    assert "   4  ==\n" in capsys.readouterr().out


def test_nothing_is_started_once_a_lab_is_down(tmp_path):
    """A front-end that a fault brings back after an interrupt would write into the next lab's files."""
    lab = Lab(root=str(tmp_path / "run"))
    os.makedirs(lab.root)
    lab.spawn("a process", ["true"]).wait()
    lab.down()
    with pytest.raises(LabError):
        lab.spawn("a process", ["true"])
    with pytest.raises(LabError):
        lab.run_clusters("site-back")

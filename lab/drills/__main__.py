"""python -m drills: what tests/faults calls."""
import argparse
import collections
import itertools
import os
import signal
import sys
import time

from harness.laboratory import LAB, Lab, LabError, end_on_signals

from . import kill_table, plan
from .faults import BY_HAND, POLICY, Faults
from .schedule import Group, Lane, Log


def arguments():
    parser = argparse.ArgumentParser(prog="tests/faults", description="Fault drills on two real Ceph clusters.")
    parser.add_argument("--seed", type=seeds_of, default=[1], metavar="N[,N…]",
                        help="the first schedule's seed; the others follow (default 1). Several: these, side by side")
    parser.add_argument("--schedules", type=int, help="how many (default 1; with --minutes: as many as fit)")
    parser.add_argument("--minutes", type=float, help="begin no schedule that would end later")
    parser.add_argument("--side-by-side", type=int, default=4, metavar="N", help="schedules that run at once (default 4)")
    parser.add_argument("--ceph", choices=("16", "18", "20"), help="release of Ceph; default: this machine's own")
    parser.add_argument("--list", action="store_true", help="print the schedules and do nothing")
    parser.add_argument("--kill-table", action="store_true", help="instead: kill -9 at every external call of each operation")
    parser.add_argument("--operation", action="append", metavar="NAME/MODE", choices=kill_table.NAMES,
                        help="with --kill-table: only this one, and more of them (%s)" % ", ".join(kill_table.NAMES))
    parser.add_argument("--from-call", type=int, default=1, metavar="N", help="with --kill-table: begin with this call")
    parser.add_argument("--only-changes", action="store_true", help="with --kill-table: not at calls that only read")
    parser.add_argument("--calls", metavar="FOLDER", help="with --kill-table: kill nothing; write there what each operation calls")
    parser.add_argument("--commands", action="store_true", help="Ceph's commands on both sites; default: its libraries where a site has no bridge hosts")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell everything as it happens")
    options = parser.parse_args()
    if len(options.seed) > 1 and options.schedules is not None:
        parser.error("--schedules goes with one --seed: the first")
    POLICY["librbd"] = not options.commands
    if options.schedules is None:
        options.schedules = 100000 if options.minutes else 1
    return options


def seeds_of(text):
    return [int(seed) for seed in text.split(",")]


def groups(options):
    """The seeds, in groups that run side by side."""
    if len(options.seed) > 1:
        seeds = options.seed
    else:
        (first,) = options.seed
        seeds = range(first, first + options.schedules)
        if not options.minutes:
            # a group waits for its slowest
            seeds = sorted(seeds, key=lambda seed: plan.plan(seed).seconds)
    grouped = [list(seeds[start:start + options.side_by_side]) for start in range(0, len(seeds), options.side_by_side)]
    # not by length: what is interrupted has been through long ones as well as short ones
    return sorted(grouped, key=min) if len(options.seed) == 1 else grouped


class Table:
    """Counts over all schedules."""

    def __init__(self):
        self.counts = collections.Counter()
        self.begun = time.monotonic()

    def add(self, group, results):
        for lane in group.lanes:
            self.counts["schedules"] += 1
            self.counts["operations"] += lane.operations
            lane.operations = 0
            self.counts.update(lane.done)
            lane.done = {}
            for name, number in results[lane].items():
                self.counts[name] += number

    def show(self, faults):
        minutes = (time.monotonic() - self.begun) / 60
        print("\n%-22s %6s" % ("WHAT", "COUNT"))
        rows = [("schedules", self.counts["schedules"]), ("operations", self.counts["operations"]),
                ("runs at home", self.counts["runs at home"]), ("runs away", self.counts["runs away"])]
        rows += [(kind, faults.tally[kind]) for kind in [*plan.FAULTS, *BY_HAND]]
        rows += [("runs kept aside", self.counts["kept"]), ("lost records", self.counts["lost"]), ("double primaries", self.counts["double"]),
                 ("stuck VMs", self.counts["stuck"])]
        for name, number in rows:
            print("%-22s %6d" % (name, number))
        print("%.1f minutes, %.1f schedules per minute" % (minutes, self.counts["schedules"] / max(minutes, 0.01)))

    def failed(self):
        return any(self.counts[name] for name in ("lost", "double", "stuck"))


def tell_failure(options, group, results, seeds, log, lab):
    folder = os.path.join(LAB, ".cache", "drills")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "seed-%d.log" % seeds[0])
    print("\n".join(log.lines))
    for lane in group.lanes:
        for trouble in lane.trouble:
            print("SEED %d FAILED: %s" % (lane.plan.seed, trouble))
    again = "tests/faults --seed %s --side-by-side %d" % (",".join(map(str, seeds)), len(seeds))
    print("to see it again: %s%s" % (again, " --ceph " + options.ceph if options.ceph else ""))
    with open(path, "w") as file:
        file.write("\n".join(log.lines) + "\n")
        for lane in group.lanes:
            file.write("%s\nimages %s, VM %d at home, %s away\n" % (lane.plan, lane.machine and lane.machine.images,
                       lane.machine.home if lane.machine else -1, lane.machine and lane.machine.vms_b))
            file.write("".join("TROUBLE %s\n" % trouble for trouble in lane.trouble))
        for site in lab.sites:
            for name in ("var/onemirror.log", "var/hooks.log", "var/faults/struck.log"):
                source = os.path.join(site.location, name)
                if os.path.exists(source):
                    with open(source, errors="replace") as lines:
                        file.write("\n=== %s %s\n%s" % (site.name, name, "".join(lines.readlines()[-4000:])))
    print("audit logs and all: %s" % path)


def schedules(options, lab):
    faults = Faults(lab, print)
    faults.prepare()
    lanes = [Lane(lab, faults, number) for number in range(options.side_by_side)]
    table, took = Table(), 0.0
    end = time.monotonic() + options.minutes * 60 if options.minutes else None
    try:
        for seeds in groups(options):
            if end and time.monotonic() + took > end:
                break
            began = time.monotonic()
            log = Log(options.verbose)
            group = Group(lab, faults, lanes, seeds, log)
            results = group.run()
            table.add(group, results)
            took = time.monotonic() - began
            for lane in group.lanes:
                verdict = ", ".join("%s %d" % pair for pair in results[lane].items() if pair[1]) or "ok"
                print("seed %d: %s (%d operations planned, %.0f s)" % (lane.plan.seed, verdict, len(lane.plan.steps), took), flush=True)
            if any(any(result.values()) for result in results.values()):
                tell_failure(options, group, results, seeds, log, lab)
                for lane in group.lanes:
                    if lane.trouble:
                        lane.machine = None  # the next schedule begins with another VM
    finally:
        table.show(faults)
    return 1 if table.failed() else 0


def main():
    options = arguments()
    if options.list:
        for seed in itertools.islice(itertools.chain.from_iterable(groups(options)), 10000):
            print(plan.plan(seed))
        return 0
    end_on_signals()
    lab = Lab(ceph=options.ceph)
    if os.path.exists(lab.root):
        print("%s exists: a lab is up already; lab/down ends it" % lab.root, file=sys.stderr)
        return 2
    try:
        lab.up()
        print("Ceph %s" % lab.a.rbd("--version").stdout.strip(), flush=True)
        return kill_table.run(options, lab) if options.kill_table else schedules(options, lab)
    except KeyboardInterrupt:
        print("interrupted; everything that was started is gone", file=sys.stderr)
        return 130
    except LabError as error:
        print("faults: %s" % error, file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lab.down()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # threads that were interrupted in a wait would be waited for
    os._exit(status)

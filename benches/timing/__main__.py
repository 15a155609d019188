"""python -m timing: what benches/run calls."""
import argparse
import os
import sys

from harness.laboratory import LAB, Lab, LabError, end_on_signals

from . import action, dead, handoff
from .measure import median


def arguments():
    parser = argparse.ArgumentParser(prog="benches/run", description="Times onemirror on two real Ceph clusters, beside its rivals.")
    parser.add_argument("--vms", type=lambda text: [int(word) for word in text.split(",")], default=[1, 10, 40], metavar="N[,N…]",
                        help="how many VMs are handed back at once (default 1,10,40)")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["journal", "snapshot"], metavar="MODE[,MODE]",
                        help="journal, snapshot (default: both)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is done; the median counts (default 3)")
    parser.add_argument("--rate", type=float, default=1, metavar="N", help="how many records a VM writes per second (default 1)")
    parser.add_argument("--ceph", choices=("16", "18", "20"), help="release of Ceph; default: this machine's own")
    parser.add_argument("--dead", action="store_true", help="instead: how long things take while the other site is dead")
    parser.add_argument("--actions", action="store_true",
                        help="instead: how much longer a stock action takes of a VM with nothing to hand over")
    parser.add_argument("--commands", action="store_true", help="Ceph's commands in place of its libraries")
    return parser.parse_args()


def fleet_of(lab, count, mode, rounds):
    for site in lab.sites:
        site.onemirror("off", "--reason", "benches")
    machines = handoff.Plain(lab, count, mode)
    plain = [machines.ends_and_starts() for _ in range(rounds)]
    machines.removed()
    for site in lab.sites:
        site.onemirror("on")
    bare = handoff.Bare(lab, count, mode)
    floor = [bare.floor() for _ in range(rounds)]
    by_hand = [bare.by_hand() for _ in range(rounds)]
    bare.removed()
    fleet = handoff.Fleet(lab, count, mode)
    over, back = [], []
    for _ in range(rounds):
        over.append(fleet.takes_over())
        back.append(fleet.comes_back())
    return [("stock terminate and resume", plain), ("floor: pool demote, replay, pool promote", floor),
            ("documented procedure, image by image", by_hand), ("onemirror: take over", over), ("onemirror: hand back", back)]


def show(title, rows):
    medians = {name: median(stretches) for name, stretches in rows}
    plain, floor = (list(medians.values())[number].seconds for number in (0, 1))
    print("\n%s" % title)
    print("%-44s %9s %9s %10s %8s" % ("", "seconds", "CPU s", "tasks", "ratio"))
    for name, found in medians.items():
        # the procedure and the pool's commands neither stop nor start a VM
        needs = plain + floor if name.startswith("onemirror") else floor
        print("%-44s %9.2f %9.1f %10d %8.2f" % (name, found.seconds, found.processor, found.tasks, found.seconds / needs), flush=True)


def show_plain(title, rows):
    print("\n%s" % title)
    for name, stretches in rows:
        found = median(stretches)
        print("%-44s %9.2f %9.1f %10d" % (name, found.seconds, found.processor, found.tasks), flush=True)


def main():
    options = arguments()
    end_on_signals()
    lab = Lab(root=os.path.join(LAB, ".run-benches"), ceph=options.ceph)
    # the stand-in too: oned is no debug build
    lab.binary, lab.front_end = (program.replace("/debug/", "/release/") for program in (lab.binary, lab.front_end))
    # what guests write is to be replayed, and is not what is measured
    lab.rate = options.rate
    try:
        lab.up()
        for site in lab.sites:
            site.configure(librbd=not options.commands, sync_timeout="600s", release_timeout="300s")
        print("Ceph %s, %d processors, onemirror by %s" % (
            lab.a.rbd("--version").stdout.strip(), os.cpu_count(), "Ceph's commands" if options.commands else "Ceph's libraries"))
        if options.dead:
            for death in dead.DEATHS:
                show_plain("site-a %s" % death, dead.beside(lab, death))
                lab.clear()
            return
        if options.actions:
            print("%-44s %12s %12s" % ("milliseconds", "not mirrored", "mirrored"))
            for name, medians in action.longer_by(lab):
                print("%-44s %12.1f %12.1f" % (name, *medians), flush=True)
            return
        for mode in options.modes:
            for count in options.vms:
                show("%d VMs, %s mode" % (count, mode), fleet_of(lab, count, mode, options.rounds))
                lab.clear()
    except LabError as error:
        sys.exit("benches: %s" % error)
    finally:
        lab.down()


main()

"""python -m harness up|down|demo [--ceph N]: what lab/up, lab/down and lab/demo call."""
import argparse
import glob
import os
import signal
import sys

from . import story
from .laboratory import Lab, LabError, end_on_signals


def fresh_lab(options):
    lab = Lab(ceph=options.ceph)
    if os.path.exists(lab.root):
        raise LabError("%s exists: a lab is up already; lab/down ends it" % lab.root)
    return lab


def up(options):
    lab = fresh_lab(options)
    try:
        lab.up()
    except BaseException:
        lab.down()
        raise
    lab.keep()
    print("Two sites are up. For a shell on one of them, with onemirror, rbd and lab/one in reach:")
    for site in lab.sites:
        print("  lab/shell %s" % site.name)
    print("lab/down ends them.")


def down(_options):
    roots = glob.glob(Lab().root + "*")
    for root in roots:
        Lab(root=root).down()
    print("the lab is down" if roots else "no lab is up")


def demo(options):
    lab = fresh_lab(options)
    try:
        print("starting two Ceph clusters and two front-ends, installing onemirror into both")
        lab.up()
        print("Ceph %s\n" % lab.a.rbd("--version").stdout.strip())
        story.tell(lab)
        print("\nThe VM is home. Every record that was acknowledged on the recovery site is there, in order.")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lab.down()


def main():
    parser = argparse.ArgumentParser(prog="lab")
    parser.add_argument("verb", choices=("up", "down", "demo"))
    parser.add_argument("--ceph", choices=("16", "18", "20"), help="release of Ceph; default: this machine's own")
    options = parser.parse_args()
    end_on_signals()
    try:
        {"up": up, "down": down, "demo": demo}[options.verb](options)
    except KeyboardInterrupt:
        print("interrupted; everything that was started is gone", file=sys.stderr)
        return 130
    except (LabError, AssertionError) as error:
        print("lab: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

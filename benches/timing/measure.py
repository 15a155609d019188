"""One measured stretch: time, processor, processes."""
import contextlib
import os
import statistics
import time


def counters():
    """Seconds of processor that this machine has used, and how many processes it has started."""
    with open("/proc/stat") as file:
        lines = {line.split()[0]: line.split()[1:] for line in file}
    user, nice, system, _idle, _wait, irq, softirq = map(int, lines["cpu"][:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), int(lines["processes"][0])


class Stretch:
    seconds = processor = processes = None

    def __str__(self):
        return "%.2f s, %.1f s of processor, %d processes" % (self.seconds, self.processor, self.processes)


@contextlib.contextmanager
def stretch():
    found = Stretch()
    before, began = counters(), time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    found.processor, found.processes = (after - then for after, then in zip(counters(), before))


def median(stretches):
    """Each of the three by itself."""
    found = Stretch()
    for name in ("seconds", "processor", "processes"):
        setattr(found, name, statistics.median(getattr(one, name) for one in stretches))
    return found

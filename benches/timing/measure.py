"""One measured stretch: time, processor, tasks."""
import contextlib
import os
import statistics
import time


def counters():
    """Seconds of processor that this machine has used, and how many tasks it has started: processes, and their threads."""
    with open("/proc/stat") as file:
        lines = {line.split()[0]: line.split()[1:] for line in file}
    user, nice, system, _idle, _wait, irq, softirq = map(int, lines["cpu"][:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), int(lines["processes"][0])


class Stretch:
    seconds = processor = tasks = None

    def __str__(self):
        return "%.2f s, %.1f s of processor, %d tasks" % (self.seconds, self.processor, self.tasks)


@contextlib.contextmanager
def stretch():
    found = Stretch()
    before, began = counters(), time.monotonic()
    yield found
    found.seconds = time.monotonic() - began
    found.processor, found.tasks = (after - then for after, then in zip(counters(), before))


def median(stretches):
    """Each of the three by itself."""
    found = Stretch()
    for name in ("seconds", "processor", "tasks"):
        setattr(found, name, statistics.median(getattr(one, name) for one in stretches))
    return found

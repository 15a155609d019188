"""Breaks one thing at a time, puts it right again, and counts what really struck."""
import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading

from harness.laboratory import LAB, LIBFAKETIME, LabError, command_line, run

from .proxy import Proxy

DRILLS = os.path.join(LAB, "drills")
# shorter than the defaults, so that deadlines are really reached
POLICY = {"sync_timeout": "40s", "command_timeout": "8s", "release_timeout": "20s", "librbd": True}
# faults that are operations of a plan
BY_HAND = ("operators-at-once", "image-vanishes", "site-lost", "cluster-cut", "vm-recreated", "disk-attached", "disk-reverted", "image-deleted")


class NotNow(Exception):
    """The fault cannot strike: somebody else's fault is at work on the same thing."""


class Site:
    """What can be broken of one site."""

    def __init__(self, lab, site, counting):
        self.lab, self.site = lab, site
        self.folder = os.path.join(site.location, "var/faults")
        self.proxy = Proxy(site.port, site.location, counting)
        self.things = collections.defaultdict(threading.Lock)

    def path(self, name):
        return os.path.join(self.folder, name)

    def lines(self, name):
        with contextlib.suppress(OSError), open(self.path(name)) as file:
            return file.read().splitlines()
        return []

    @contextlib.contextmanager
    def only(self, *things, patience=0):
        """Nobody else breaks these things meanwhile."""
        taken = []
        try:
            for thing in things:
                lock = self.things[thing]
                if not (lock.acquire(timeout=patience) if patience else lock.acquire(blocking=False)):
                    raise NotNow(thing)
                taken.append(lock)
            yield
        finally:
            for lock in taken:
                lock.release()

    # ------------------------------------------------------------ making ready

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.path("calls"))
        binary = os.path.join(self.site.location, "bin/onemirror")
        real = os.path.join(self.site.location, "bin/real/onemirror")
        os.makedirs(os.path.dirname(real), exist_ok=True)
        if not os.path.exists(real):
            os.rename(binary, real)
        shutil.copy(os.path.join(DRILLS, "onemirror-by-clock"), binary)

    def configure(self, peer, by_ssh, **policy):
        """The plugin as ever, but through the proxies, and with `rbd` for the own cluster by ssh."""
        # of processes that stay a drill neither counts the calls nor kills who makes them; so one site has none
        stays = "60s" if self.site.name == "site-b" else "never"
        self.site.configure(**{**POLICY, "librbd_stays": stays, **policy})
        with open(self.site.configuration) as file:
            text = file.read()
        text = text.replace(self.lab.other(self.site).endpoint, peer.proxy.endpoint)
        own = 'endpoint = "%s"\n' % self.proxy.endpoint
        if by_ssh:
            own += '[site.ceph]\nrun_on = ["front-end"]\n'
        self.site.write_configuration(text.replace("[peer]\n", own + "[peer]\n", 1))

    def forget_calls(self):
        # the folder stays: a process of the schedule before may be counting in it
        calls = ["calls/" + name for name in os.listdir(self.path("calls"))]
        for name in (*calls, "armed", "calls.log", "struck.log", "ssh-hung.log"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path(name))


class Faults:
    """All that can be broken, on both sites."""

    def __init__(self, lab, log):
        self.lab, self.log = lab, log
        self.tally = collections.Counter()
        self.counting = False
        self.sites = {site.name: Site(lab, site, lambda: self.counting) for site in lab.sites}
        self.losing = threading.Lock()
        self.front_ends = threading.Lock()  # the lab's list of processes is one file
        self.running = set()

    def prepare(self, by_ssh=("site-a",)):
        lab = self.lab
        os.environ["ONEMIRROR_LAB_FAKETIME"] = LIBFAKETIME
        lab.programs[:] = [os.path.join(DRILLS, "programs")]
        for name, broken in self.sites.items():
            broken.prepare()
            peer = self.sites[lab.other(broken.site).name]
            broken.configure(peer, name in by_ssh)
            # its children get the programs that can kill
            self.stop_front_end(broken.site)
            self.start_front_end(broken.site)

    def stop_front_end(self, site):
        with self.front_ends:
            site.front_end_kill()

    def start_front_end(self, site):
        with self.front_ends:
            site.front_end_start()

    def struck(self, kind, times=1):
        self.tally[kind] += times

    # ------------------------------------------------------------ striking

    def strike(self, strike, ended):
        """Carries a strike of a plan out, until its time is over or `ended` is set. Counts it if it struck."""
        if ended.wait(strike.delay):
            return
        broken = self.sites[strike.site]
        act = getattr(self, strike.kind.replace("-", "_"))
        try:
            with act(broken, strike) as confirm:
                self.log("%s: %s begins" % (strike.site, strike.kind))
                ended.wait(strike.seconds)
                struck = confirm is None or confirm()
            self.log("%s: %s ends%s" % (strike.site, strike.kind, "" if struck else ", nobody noticed"))
            if struck:
                self.struck(strike.kind)
        except NotNow as thing:
            self.log("%s: no %s, %s is broken already" % (strike.site, strike.kind, thing))

    @contextlib.contextmanager
    def kill(self, broken, strike, when):
        with broken.only("kill"):
            with open(broken.path("armed.new"), "w") as file:
                file.write("%d %s\n" % (strike.number, when))
            os.rename(broken.path("armed.new"), broken.path("armed"))
            self.counting = True
            before = len(broken.lines("struck.log"))

            def happened():
                done = broken.lines("struck.log")[before:]
                for line in done:
                    self.log("%s: killed onemirror %s" % (strike.site, line))
                return bool(done)

            try:
                yield happened
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(broken.path("armed"))

    def kill_before(self, broken, strike):
        return self.kill(broken, strike, "before")

    def kill_after(self, broken, strike):
        return self.kill(broken, strike, "after")

    def kill_during(self, broken, strike):
        return self.kill(broken, strike, "during")

    @contextlib.contextmanager
    def daemon(self, broken, thing, stop, start):
        with broken.only(thing):
            self.lab.run_clusters(*stop, "--site", broken.site.name)
            try:
                yield None
            finally:
                self.start_daemon(broken, start)

    def start_daemon(self, broken, verb):
        for _ in range(4):
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                self.lab.run_clusters(verb, "--site", broken.site.name)
                return
        self.log("%s: %s does not work" % (broken.site.name, verb))

    def mirror_killed(self, broken, _):
        return self.daemon(broken, "rbd-mirror", ("daemon-stop", "--signal", "KILL"), "daemon-start")

    def mirror_paused(self, broken, _):
        return self.daemon(broken, "rbd-mirror", ("daemon-stop", "--signal", "STOP"), "daemon-start")

    def mirror_ended(self, broken, _):
        return self.daemon(broken, "rbd-mirror", ("daemon-stop", "--signal", "TERM"), "daemon-start")

    def monitor_killed(self, broken, _):
        return self.daemon(broken, "monitor", ("monitor-stop", "--signal", "KILL"), "monitor-start")

    def monitor_paused(self, broken, _):
        return self.daemon(broken, "monitor", ("monitor-stop", "--signal", "STOP"), "monitor-start")

    def osd_paused(self, broken, _):
        return self.daemon(broken, "osd", ("osd-pause",), "osd-continue")

    @contextlib.contextmanager
    def run_killed(self, broken, strike):
        """A run is killed at any moment of its life: the calls of processes that are lent to it are not counted."""
        over = threading.Event()
        chance = random.Random(strike.number)
        killed = []

        def kill_one():
            while not killed and not over.wait(chance.uniform(0.02, 0.4)):
                for pid in broken.site.runs()[:1]:
                    command = command_line(pid).replace("\0", " ")
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(command)

        thread = threading.Thread(target=kill_one)
        thread.start()
        try:
            yield lambda: bool(killed)
        finally:
            over.set()
            thread.join()
            for command in killed:
                self.log("%s: killed %s" % (broken.site.name, command))

    @contextlib.contextmanager
    def library_killed(self, broken, _):
        with broken.only("library"):
            struck = broken.site.signal_library_processes(signal.SIGKILL)
            yield lambda: struck

    @contextlib.contextmanager
    def library_paused(self, broken, _):
        with broken.only("library"):
            struck = broken.site.signal_library_processes(signal.SIGSTOP)
            try:
                yield lambda: struck
            finally:
                broken.site.signal_library_processes(signal.SIGCONT)

    @contextlib.contextmanager
    def pool_full(self, broken, strike):
        """Somebody's data is at the quota of a pool: whoever writes there, if only metadata, waits."""
        pool = ("one", "two", "three")[strike.number % 3]
        with broken.only("pool", "monitor"):
            self.set_quota(broken, pool, 1)
            try:
                yield lambda: "full_quota" in broken.site.ceph("osd", "pool", "ls", "detail").stdout
            finally:
                self.set_quota(broken, pool, 0)

    def set_quota(self, broken, pool, size):
        for _ in range(4):
            with contextlib.suppress(LabError, subprocess.TimeoutExpired):
                broken.site.ceph("osd", "pool", "set-quota", pool, "max_bytes", str(size))
                return
        self.log("%s: the quota of %s cannot be set" % (broken.site.name, pool))

    @contextlib.contextmanager
    def front_end_stopped(self, broken, _):
        with broken.only("front-end"):
            self.stop_front_end(broken.site)
            try:
                yield None
            finally:
                self.start_front_end(broken.site)

    @contextlib.contextmanager
    def answer(self, broken, mode):
        with broken.only("answers"):
            broken.proxy.struck.clear()
            broken.proxy.mode = mode
            try:
                yield lambda: broken.proxy.struck.get(mode, 0) > 0
            finally:
                broken.proxy.mode = "ok"

    def answer_500(self, broken, _):
        return self.answer(broken, "500")

    def answer_half(self, broken, _):
        return self.answer(broken, "half")

    def answer_late(self, broken, _):
        return self.answer(broken, "late")

    @contextlib.contextmanager
    def ssh_hangs(self, broken, _):
        # the site that uses ssh is the one where it can hang
        broken = self.sites["site-a"]
        with broken.only("ssh"):
            before = len(broken.lines("ssh-hung.log"))
            open(broken.path("ssh-hangs"), "w").close()
            try:
                yield lambda: len(broken.lines("ssh-hung.log")) > before
            finally:
                os.remove(broken.path("ssh-hangs"))

    @contextlib.contextmanager
    def log_full(self, broken, _):
        log = os.path.join(broken.site.location, "var/onemirror.log")
        disk = broken.path("full-disk")
        with broken.only("log"):
            if not os.path.exists(log):
                raise NotNow("the log, which is not there yet,")
            os.makedirs(disk, exist_ok=True)
            run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk])
            try:
                # a page, which is all there is, and whose last byte onemirror reads before it writes
                with open(disk + "/log", "w") as file:
                    file.write("\n" * 4096)
                run(["mount", "--bind", disk + "/log", log])
                read = os.stat(log).st_atime_ns
                try:
                    yield lambda: os.stat(log).st_atime_ns > read
                finally:
                    run(["umount", log])
            finally:
                run(["umount", disk])

    @contextlib.contextmanager
    def clock_stepped(self, broken, strike):
        with broken.only("clock"):
            calls = len(broken.lines("calls.log"))

            def step(seconds):
                with open(broken.path("clock.new"), "w") as file:
                    file.write("%+d\n" % seconds)
                os.rename(broken.path("clock.new"), broken.path("clock"))

            far = -86400 if strike.number % 2 else 7200
            step(far)
            timer = threading.Timer(strike.seconds / 2, step, (-far,))
            timer.start()
            try:
                yield lambda: len(broken.lines("calls.log")) > calls
            finally:
                timer.cancel()
                timer.join()
                os.remove(broken.path("clock"))

    @contextlib.contextmanager
    def hooks(self, broken, how):
        log = os.path.join(broken.site.location, "var/hooks.log")

        def lines():
            with contextlib.suppress(OSError), open(log) as file:
                return sum(1 for _ in file)
            return 0

        with broken.only("hooks"):
            before = lines()
            self.control(broken, "hooks=" + how)
            try:
                yield lambda: lines() > before
            finally:
                self.control(broken, "hooks=deliver")

    def control(self, broken, request):
        # a front-end that is down forgets what it was told
        with contextlib.suppress(LabError, subprocess.TimeoutExpired):
            broken.site.control(request)

    def hooks_repeated(self, broken, _):
        return self.hooks(broken, "repeat:10")

    def hooks_lost(self, broken, _):
        return self.hooks(broken, "lose")

    def hooks_late(self, broken, _):
        return self.hooks(broken, "late:3")

    @contextlib.contextmanager
    def site_lost(self, name):
        """Power is gone: front-end, daemons, domains. On its return the machine has rebooted."""
        broken = self.sites[name]
        site = broken.site
        # one site at a time: with both lost there is nothing to see
        with self.losing, broken.only("rbd-mirror", "monitor", "osd", "front-end", "pool", patience=40):
            self.stop_front_end(site)
            site.clusters("site-lost")
            site.kill_domains()
            self.log("%s is lost" % name)
            self.struck("site-lost")
            try:
                yield
            finally:
                shutil.rmtree(os.path.join(site.location, "var/onemirror/peer-contacts"), ignore_errors=True)
                self.start_daemon(broken, "site-back")
                self.start_front_end(site)
                self.log("%s is back" % name)

    @contextlib.contextmanager
    def cluster_cut(self, name):
        """Nobody reaches the cluster's monitor; whoever is connected to its OSD goes on. The front-end answers."""
        broken = self.sites[name]
        with self.losing, broken.only("monitor", "front-end", "answers", patience=40):
            self.lab.run_clusters("monitor-stop", "--signal", "STOP", "--site", name)
            self.struck("cluster-cut")
            try:
                yield
            finally:
                self.start_daemon(broken, "monitor-start")

    # ------------------------------------------------------------ the end of all faults

    def end(self):
        """Makes sure that nothing is broken any more."""
        for broken in self.sites.values():
            broken.proxy.mode = "ok"
            with contextlib.suppress(FileNotFoundError):
                os.remove(broken.path("armed"))
        self.counting = False
        self.lab.repair()
        for broken in self.sites.values():
            if not broken.site.answers():
                self.stop_front_end(broken.site)
                self.start_front_end(broken.site)
            self.control(broken, "hooks=deliver")

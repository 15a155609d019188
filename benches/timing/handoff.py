"""N VMs handed back by onemirror; their images by the page of commands it replaces, and by what Ceph itself needs."""
import re
import time

from harness.laboratory import MEGABYTES, LabError, unique, wait_until

from .measure import stretch

POOLS = {"journal": "one", "snapshot": "two"}
PATIENCE = 600


def wait_all(site, vms, state, log=None):
    """Until all of them are in that state, by one question for all."""
    end = time.monotonic() + PATIENCE
    wanted = set(vms)
    while wanted:
        for vm in list(wanted):
            if site.state_name(vm) == state:
                wanted.discard(vm)
            else:
                break
        if time.monotonic() > end:
            vm = min(wanted)
            raise LabError("VM %d of %s is %s, not %s: %s" % (vm, site.name, site.state_name(vm), state, site.vm_error(vm)))
        if wanted:
            time.sleep(0.05)


def wait_gone(site, pool, name):
    """Until no image has a name that begins so."""
    wait_until("%s of %s to be gone" % (name, site.name),
               lambda: not any(image.startswith(name) for image in site.rbd("ls", pool).stdout.split()), PATIENCE, 0.3)


class Fleet:
    """N VMs with one mirrored disk each; all off at home, with images and doubles on the other site."""

    def __init__(self, lab, count, mode):
        self.lab, self.count, self.mode, self.pool = lab, count, mode, POOLS[mode]
        self.a, self.b = lab.sites
        name = unique("bench-%s" % mode)
        images = [self.a.image_create("%s-%d" % (name, number), self.pool, True) for number in range(count)]
        if mode == "snapshot":
            for image in images:
                self.a.rbd("mirror", "image", "enable", self.a.source(image), "snapshot")
        homes = [self.a.vm_create("%s-%d" % (name, number), [image]) for number, image in enumerate(images)]
        wait_all(self.a, homes, "RUNNING")
        self.homes = homes
        for vm in homes:
            self.a.action("poweroff", vm)
        wait_all(self.a, homes, "POWEROFF")
        self.machines = []
        self.images = [self.a.source(image) for image in images]
        self.registered = []
        for number, image in enumerate(self.images):
            self.b.wait_replaying(image)
            self.registered.append(self.b.image_create("%s-%d" % (name, number), self.pool, True, source=image))
        self.name, self.away = name, []

    def takes_over(self):
        """`onevm create` of all doubles at once, until they run."""
        for image in self.images:
            self.b.wait_replaying(image)
        with stretch() as found:
            self.away = [self.b.vm_create("%s-%d" % (self.name, number), [image]) for number, image in enumerate(self.registered)]
            wait_all(self.b, self.away, "RUNNING")
        for vm in self.away:
            self.b.wait_records(vm, 1)
        for image in self.images:
            self.a.wait_replaying(image)
        return found

    def comes_back(self):
        """`onevm terminate` of all of them at once, until they run at home."""
        with stretch() as found:
            for vm in self.away:
                self.b.action("terminate", vm)
            wait_all(self.a, self.homes, "RUNNING")
        wait_all(self.b, self.away, "DONE")
        self.rests()
        return found

    def rests(self):
        for vm in self.homes:
            self.a.action("poweroff", vm)
        wait_all(self.a, self.homes, "POWEROFF")


class Bare:
    """N images without VMs or marks, mirrored as a VM's are: what the rivals hand over."""

    def __init__(self, lab, count, mode):
        self.a, self.b = lab.sites
        self.pool = POOLS[mode]
        self.name = unique("bare")
        self.images = ["%s/%s-%d" % (self.pool, self.name, number) for number in range(count)]
        for image in self.images:
            self.a.rbd("create", "--size", "%dM" % MEGABYTES, image)
            if mode == "snapshot":
                self.a.rbd("mirror", "image", "enable", image, "snapshot")

    def removed(self):
        for image in self.images:
            self.a.rbd("rm", "--no-progress", image)
        wait_gone(self.b, self.pool, self.name)

    def round(self, way):
        """There, which is not timed, and back."""
        for giver, taker, is_timed in ((self.a, self.b, False), (self.b, self.a, True)):
            for image in self.images:
                taker.wait_replaying(image)
                # what its VM has written last
                giver.rbd("bench", "--io-type", "write", "--io-size", "4096", "--io-total", "4096", image)
            with stretch() as found:
                way(giver, taker)
        for image in self.images:
            self.b.wait_replaying(image)
        return found

    def floor(self):
        """The whole pool at once."""
        return self.round(self.pool_goes)

    def by_hand(self):
        """The page of commands, image by image, as a careful script would type them: without any of its checks."""
        return self.round(self.images_go)

    def pool_goes(self, giver, taker):
        giver.rbd("mirror", "pool", "demote", self.pool)
        left = len(self.images)
        end = time.monotonic() + PATIENCE
        while left:
            said = taker.rbd("mirror", "pool", "promote", self.pool, check=False).stdout
            left -= int(re.search(r"Promoted (\d+) mirrored images", said)[1])
            if time.monotonic() > end:
                raise LabError("%d images do not become primary" % left)

    def images_go(self, giver, taker):
        for image in self.images:
            giver.rbd("mirror", "image", "demote", image)
        for image in self.images:
            end = time.monotonic() + PATIENCE
            while taker.rbd("mirror", "image", "promote", image, check=False).returncode:
                if time.monotonic() > end:
                    raise LabError("%s does not become primary" % image)


class Plain:
    """N VMs on either site with a mirrored disk each, primary where it runs: what terminate and resume of such VMs cost while
    onemirror is switched off."""

    def __init__(self, lab, count, mode):
        self.a, self.b = lab.sites
        self.pool, self.name = POOLS[mode], unique("plain")
        self.registered = {self.a: [], self.b: []}
        sources = []
        for site, registered in self.registered.items():
            for number in range(count):
                name = "%s-%s-%d" % (self.name, site.name[-1], number)
                source = "%s/%s" % (self.pool, name)
                site.rbd("create", "--size", "%dM" % MEGABYTES, source)
                if mode == "snapshot":
                    site.rbd("mirror", "image", "enable", source, "snapshot")
                sources.append((lab.other(site), source))
                registered.append(site.image_create(name, self.pool, True, source=source))
        for other, source in sources:
            other.wait_replaying(source)

    def boots_all(self, site):
        vms = [site.vm_create("%s-%d" % (self.name, image), [image]) for image in self.registered[site]]
        wait_all(site, vms, "RUNNING")
        return vms

    def ends_and_starts(self):
        homes, away = self.boots_all(self.a), self.boots_all(self.b)
        for vm in homes:
            self.a.action("poweroff", vm)
        wait_all(self.a, homes, "POWEROFF")
        with stretch() as found:
            for vm in away:
                self.b.action("terminate", vm)
            for vm in homes:
                self.a.action("resume", vm)
            wait_all(self.b, away, "DONE")
            wait_all(self.a, homes, "RUNNING")
        for vm in homes:
            self.a.action("terminate", vm)
        wait_all(self.a, homes, "DONE")
        return found

    def removed(self):
        for site, registered in self.registered.items():
            for image in registered:
                site.image_delete(image)
        wait_gone(self.a, self.pool, self.name)
        wait_gone(self.b, self.pool, self.name)

"""Numbered, checksummed records on RBD images: what the lab's VMs write and the lab's check reads.

A record is 512 bytes. Record n of a disk stands at offset (n - 1) * 512, so a disk reads back as
1, 2, 3, ... up to the last one that arrived. Each record names the run of the writer that made it: after a
forced failover two runs may have given the same number to different records, and only one of them is there.
"""
import binascii
import hashlib
import json
import struct

SIZE = 512
MAGIC = b"ONEMREC1"
# magic, VM uuid (16 bytes), run (8 bytes), sequence number, disk id, number of the last record found when the run began
LAYOUT = struct.Struct("<8s16s8sQIQ")
CHUNK = 1024 * SIZE


def run_mark(run):
    """The eight bytes that stand for a run in its records."""
    return hashlib.sha256(run.encode()).digest()[:8]


class Record:
    def __init__(self, vm, run, sequence, disk, previous):
        self.vm, self.run, self.sequence, self.disk, self.previous = vm, run, sequence, disk, previous

    def encode(self):
        head = LAYOUT.pack(MAGIC, self.vm, self.run, self.sequence, self.disk, self.previous)
        # the filling depends on the number: a torn record can't pass for a whole one
        filling = (hashlib.sha256(head).digest() * 16)[: SIZE - len(head) - 4]
        return head + filling + struct.pack("<I", binascii.crc32(head + filling))

    @classmethod
    def decode(cls, data):
        """The record, or None for anything that is not a whole one."""
        if len(data) != SIZE or data[:8] != MAGIC:
            return None
        if binascii.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            return None
        _, vm, run, sequence, disk, previous = LAYOUT.unpack(data[: LAYOUT.size])
        return cls(vm, run, sequence, disk, previous)


class Scan:
    """What is on a disk: the records 1 to `last`, their runs, and what is wrong with it."""

    def __init__(self, image):
        self.runs = {}  # mark -> numbers of its first and last record
        self.marks = []  # mark of record n at n - 1
        self.errors = []
        self.last = 0
        self.after = 0  # whole records behind the first place that holds none
        size = image.size()
        offset = 0
        while offset + SIZE <= size:
            data = image.read(offset, min(CHUNK, size - offset))
            for at in range(0, len(data) - SIZE + 1, SIZE):
                place = (offset + at) // SIZE + 1
                record = Record.decode(data[at : at + SIZE])
                if record is None:
                    self._behind(image, offset + at, size)
                    return
                self._take(record, place)
            offset += len(data)

    def _take(self, record, place):
        if record.sequence != place and len(self.errors) < 10:
            self.errors.append("place %d holds record %d" % (place, record.sequence))
        if record.previous >= record.sequence and len(self.errors) < 10:
            self.errors.append("record %d says that its run began after %d" % (record.sequence, record.previous))
        first, _ = self.runs.get(record.run, (place, place))
        self.runs[record.run] = (first, place)
        self.marks.append(record.run)
        self.last = place

    def _behind(self, image, offset, size):
        """Records behind a hole mean that writes arrived out of order, or that one is damaged."""
        look = image.read(offset, min(CHUNK, size - offset))
        if Record.decode(look[:SIZE]):
            return  # written since the first look: a writer is at work, and this scan ends where it was then
        if look[:SIZE].strip(b"\0"):
            self.errors.append("place %d holds a damaged record" % (offset // SIZE + 1))
        for at in range(SIZE, len(look) - SIZE + 1, SIZE):
            if Record.decode(look[at : at + SIZE]):
                self.after += 1
        if self.after:
            self.errors.append("%d records behind a gap at place %d" % (self.after, offset // SIZE + 1))


class Log:
    """The acknowledged records of one run: a line of JSON that says whose they are, then lines `disk number`."""

    def __init__(self, path):
        self.path = path
        self.acknowledged = {}  # disk id -> numbers
        with open(path) as lines:
            self.header = json.loads(lines.readline())
            for line in lines:
                words = line.split()
                # the last line may be torn: the writer was killed before it was sure itself
                if line.endswith("\n") and len(words) == 2:
                    self.acknowledged.setdefault(int(words[0]), []).append(int(words[1]))

    def names(self, image):
        return image in self.header["disks"].values()

    def numbers(self, image):
        """The numbers acknowledged for that image (pool/image), whatever its disk id was."""
        wanted = [int(disk) for disk, name in self.header["disks"].items() if name == image]
        return [number for disk in wanted for number in self.acknowledged.get(disk, [])]


def check_name(image, logs):
    """An image whose name none of these logs has would lack nothing: nothing was asked."""
    if logs and not any(log.names(image) for log in logs):
        raise ValueError("no log names %s; if it had another name when it was written, say so with --written-as" % image)


def judge(scan, image, logs):
    """The verdict on one disk: a dictionary whose `ok` says whether every acknowledged record is there."""
    verdict = {
        "image": image,
        "records": scan.last,
        "errors": list(scan.errors),
        "runs": len(scan.runs),
        "acknowledged": 0,
        "lost": 0,
        "logs": [],
    }
    for log in logs:
        numbers = log.numbers(image)
        mark = run_mark(log.header["run"])
        lost = [n for n in numbers if n > scan.last or scan.marks[n - 1] != mark]
        kept = set(numbers) - set(lost)
        verdict["acknowledged"] += len(numbers)
        verdict["lost"] += len(lost)
        verdict["logs"].append(
            {
                "log": log.path,
                "run": log.header["run"],
                "acknowledged": len(numbers),
                "lost": len(lost),
                "first_lost": min(lost) if lost else None,
                # what asynchronous replication may lose is the end of a run, never something in the middle
                "lost_is_tail": not lost or not kept or min(lost) > max(kept),
            }
        )
    verdict["ok"] = not verdict["errors"] and not verdict["lost"]
    return verdict


def open_cluster(conf, user):
    import rados

    cluster = rados.Rados(conffile=conf or "", rados_id=user or "admin")
    cluster.connect(timeout=15)
    return cluster


def split_image(image):
    """pool/image or pool/namespace/image → pool, namespace, image"""
    parts = image.split("/")
    if len(parts) == 2:
        return parts[0], "", parts[1]
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    raise ValueError("%r is not pool/image" % image)


def open_image(cluster, image, read_only, snapshot=None):
    import rbd

    pool, namespace, name = split_image(image)
    context = cluster.open_ioctx(pool)
    if namespace:
        context.set_namespace(namespace)
    return rbd.Image(context, name, snapshot=snapshot, read_only=read_only)

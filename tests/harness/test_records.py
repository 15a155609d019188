"""What tells whether a write was lost: lab/records.py, on images in memory."""
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../lab"))
import records  # noqa: E402

VM = bytes(16)


class Image:
    """As much of rbd.Image as a scan needs."""

    def __init__(self, places):
        self.data = bytearray(places * records.SIZE)

    def size(self):
        return len(self.data)

    def read(self, offset, length):
        return bytes(self.data[offset : offset + length])

    def put(self, place, run, sequence=None, previous=0):
        record = records.Record(VM, records.run_mark(run), sequence or place, 0, previous)
        self.data[(place - 1) * records.SIZE : place * records.SIZE] = record.encode()


def log(run, numbers, tail=""):
    handle, path = tempfile.mkstemp()
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps({"vm": 0, "run": run, "disks": {"0": "one/x", "1": "one/y"}}) + "\n")
        file.write("".join("0 %d\n1 %d\n" % (n, n + 100) for n in numbers) + tail)
    read = records.Log(path)
    os.unlink(path)
    return read


class Verdict(unittest.TestCase):
    def setUp(self):
        self.image = Image(3000)
        for place in range(1, 1501):  # more than one chunk
            self.image.put(place, "a" if place <= 1000 else "b", previous=0 if place <= 1000 else 1000)

    def test_a_name_that_no_log_has_is_no_verdict(self):
        records.check_name("one/x", [log("a", [1])])
        records.check_name("one/x.lost-1", [])
        with self.assertRaises(ValueError):
            records.check_name("one/x.lost-1", [log("a", [1])])

    def judge(self, *logs):
        return records.judge(records.Scan(self.image), "one/x", logs)

    def test_everything_is_there(self):
        verdict = self.judge(log("a", range(1, 1001)), log("b", range(1001, 1501)))
        self.assertEqual((verdict["ok"], verdict["records"], verdict["acknowledged"], verdict["runs"]), (True, 1500, 1500, 2))

    def test_an_acknowledged_record_is_missing(self):
        verdict = self.judge(log("b", range(1001, 1502)))
        self.assertEqual((verdict["ok"], verdict["lost"], verdict["logs"][0]["lost_is_tail"]), (False, 1, True))

    def test_a_number_that_another_run_wrote_again_counts_as_lost(self):
        verdict = self.judge(log("a", range(1, 1101)))
        self.assertEqual((verdict["ok"], verdict["lost"], verdict["logs"][0]["first_lost"]), (False, 100, 1001))

    def test_a_loss_in_the_middle_is_no_tail(self):
        self.image.put(500, "other")
        self.assertFalse(self.judge(log("a", range(1, 1001)))["logs"][0]["lost_is_tail"])

    def test_a_damaged_record_and_a_gap_are_errors(self):
        self.image.data[499 * records.SIZE + 100] ^= 1
        verdict = self.judge()
        self.assertFalse(verdict["ok"])
        self.assertEqual(verdict["records"], 499)
        self.assertIn("place 500 holds a damaged record", verdict["errors"])
        self.assertTrue(any("behind a gap" in error for error in verdict["errors"]))

    def test_a_record_that_is_written_during_the_scan_is_no_damage(self):
        class Written(Image):
            def read(self, offset, length):
                data = super().read(offset, length)
                if offset:  # the chunk that ends before them
                    self.put(1501, "b", previous=1000)
                    self.put(1502, "b", previous=1000)
                return data

        image = Written(3000)
        image.data[:] = self.image.data
        verdict = records.judge(records.Scan(image), "one/x", [log("b", range(1001, 1501))])
        self.assertEqual((verdict["ok"], verdict["records"], verdict["errors"]), (True, 1500, []))

    def test_a_record_in_the_wrong_place_is_an_error(self):
        self.image.put(7, "a", sequence=8)
        self.assertEqual(self.judge()["errors"], ["place 7 holds record 8"])

    def test_a_torn_line_of_the_log_does_not_count(self):
        verdict = self.judge(log("b", range(1001, 1501), tail="0 1501"))
        self.assertTrue(verdict["ok"])

    def test_an_empty_disk_and_a_full_one(self):
        self.image = Image(4)
        self.assertEqual((self.judge()["ok"], self.judge()["records"]), (True, 0))
        for place in range(1, 5):
            self.image.put(place, "a")
        self.assertEqual((self.judge()["ok"], self.judge()["records"]), (True, 4))

"""The Ceph layer's own tests that need two mirrored clusters; cargo runs them, and `cargo test` alone skips them."""
import json
import os
import re
import subprocess

from conftest import full
from harness.laboratory import unique

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_the_ceph_layer_on_real_clusters(lab, a, b):
    environment = dict(a.environment, ONEMIRROR_TEST_CEPH_A=a.conf, ONEMIRROR_TEST_CEPH_B=b.conf)
    result = subprocess.run(
        ["cargo", "test", "--workspace", "--lib", "ceph::real", "--", "--ignored", "--test-threads", "2"],
        cwd=REPOSITORY, env=environment, text=True, capture_output=True, timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"ok\. [1-9]\d* passed", result.stdout), result.stdout


@full
def test_ten_thousand_questions_leak_nothing(a):
    """Of Ceph's own libraries; that ours gives back all it is given valgrind tells in rbd/tests/memory.rs."""
    image = a.image_create(unique("asked"), "one", True)
    pool, name = a.source(image).split("/")
    binary = os.path.join(a.location, "bin/onemirror")
    process = subprocess.Popen([binary, "librbd"], env=a.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def resident():
        with open("/proc/%d/status" % process.pid) as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def ask(number):
        request = {"number": number, "place": {"pool": pool, "namespace": None}, "call": {"Look": name}}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["number"] == number and "Ok" in answer["outcome"], answer

    try:
        assert process.stdout.readline() == "\n"
        options = {"conf": a.conf, "user": "admin", "keyfile": None, "mon_host": None, "mount_timeout": 20}
        process.stdin.write(json.dumps(options) + "\n")
        for number in range(2000):
            ask(number)
        before = resident()
        for number in range(2000, 10000):
            ask(number)
        assert resident() - before < 4096, "%d KiB at 2,000, %d at 10,000" % (before, resident())
    finally:
        process.kill()

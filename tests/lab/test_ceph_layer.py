"""The Ceph layer's own tests that need two mirrored clusters; cargo runs them, and `cargo test` alone skips them."""
import os
import re
import subprocess

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_the_ceph_layer_on_real_clusters(lab, a, b):
    environment = dict(a.environment, ONEMIRROR_TEST_CEPH_A=a.conf, ONEMIRROR_TEST_CEPH_B=b.conf)
    result = subprocess.run(
        ["cargo", "test", "--workspace", "--lib", "ceph::real", "--", "--ignored", "--test-threads", "2"],
        cwd=REPOSITORY, env=environment, text=True, capture_output=True, timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"ok\. [1-9]\d* passed", result.stdout), result.stdout

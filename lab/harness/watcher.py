"""python -m harness.watcher ROOT: ends the lab at ROOT once the process that started it is gone, even by kill -9.

That process alone holds the other end of the standard input. A byte there says: the lab stays, or it is down already.
"""
import signal
import sys

from .laboratory import Lab

if __name__ == "__main__":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not sys.stdin.buffer.read(1):
        Lab(root=sys.argv[1]).down()

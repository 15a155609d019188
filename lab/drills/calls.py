"""The external calls of an operation as they can be compared: what differs from run to run is masked, changes stand in their
order, and what is only read between two of them is a set, since it is read side by side and as often as it takes."""
import re

MASKS = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\.lost-\d{8}T\d{6}Z"), ".lost-TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    (re.compile(r"--lock-cookie=\S+"), "--lock-cookie=COOKIE"),
    (re.compile(r"\bclient\.\d+"), "client.N"),
    (re.compile(r"\b(rbd_header|journal|onemirror\.lost)\.[0-9a-f]+"), r"\1.ID"),
    (re.compile(r'"copy": ?"[0-9a-f]+"'), '"copy":"ID"'),
    (re.compile(r"--(keyfile|client-mount-timeout|lock-duration)=\S+"), r"--\1"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "ID"),
    (re.compile(r"(?<![\w.-])\d+(?=[:\s]|$)"), "N"),
    (re.compile(r":\d+:"), ":N:"),
)
RELEASE = re.compile(r"rados .*lock break")


def masked(call, words):
    """`words`: what stands for what in any run, as pairs; the longer ones first."""
    for word, general in words:
        call = call.replace(word, general)
    for mask, general in MASKS:
        call = mask.sub(general, call)
    return call


def comparable(calls, is_change):
    """One line a change, and indented before it what was read since the one before."""
    told, read, released = [], set(), []
    for call in calls:
        if not is_change(call):
            read.add(call)
        elif RELEASE.match(call):
            # both sides' locks go at once
            released.append(call)
        else:
            told += section(read, sorted(released)) + section(set(), [call]) if released else section(read, [call])
            read, released = set(), []
    return told + section(read, sorted(released))


def section(read, changes):
    return ["    " + call for call in sorted(read)] + changes

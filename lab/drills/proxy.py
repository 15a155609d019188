"""Stands between onemirror and a front-end: breaks answers, and kills the caller at a numbered call."""
import contextlib
import http.client
import http.server
import os
import re
import signal
import threading
import time

METHOD = re.compile(rb"<methodName>([^<]{1,80})</methodName>")


def socket_inode(port, peer):
    """The inode of the socket on this machine's port that talks to `peer`."""
    with open("/proc/net/tcp") as lines:
        next(lines)
        for line in lines:
            words = line.split()
            if words[9] != "0" and words[1].endswith(":%04X" % port) and words[2].endswith(":%04X" % peer):
                return words[9]
    return None


def onemirror_processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/%s/comm" % name) as file:
                if file.read().strip() == "onemirror":
                    yield int(name)


def owner(port, peer):
    """The onemirror process behind a connection, its site's folder and its mark; None if somebody else's."""
    inode = socket_inode(port, peer)
    for pid in onemirror_processes() if inode else ():
        folder = "/proc/%d/fd" % pid
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(os.path.join(folder, descriptor)) == "socket:[%s]" % inode:
                        with open("/proc/%d/environ" % pid, "rb") as file:
                            variables = dict(item.split(b"=", 1) for item in file.read().split(b"\0") if b"=" in item)
                        return pid, variables[b"ONE_LOCATION"].decode(), variables.get(b"ONEMIRROR_LAB_MEANT", b"").decode()
    return None


def number_of(faults, pid):
    """The number of this call among all external calls of the process; programs/rbd counts in the same way."""
    number = 1
    while True:
        try:
            os.close(os.open("%s/calls/%d.%d" % (faults, pid, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return number
        except FileExistsError:
            number += 1


def armed(faults, pid, number, mark):
    """When to kill the process that makes its call `number`, if it is to be killed there."""
    path = faults + "/armed" + ("." + mark if mark else "")
    with contextlib.suppress(OSError, ValueError):
        with open(path) as file:
            at, when, *name = file.read().split()
        # named calls are not ours
        if not name and int(at) == number:
            os.rename(path, "%s/fired.%d" % (faults, pid))
            return when
    return None


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = METHOD.search(body)
        method = found.group(1).decode() if found else "?"
        when, pid, deaf = self.numbered(method)
        if when in ("before", "during"):
            os.kill(pid, signal.SIGKILL)
        if when == "before":
            return
        try:
            status, answer = server.forward(body)
        except OSError:
            return  # as from a front-end that is down: the connection ends
        if when == "after":
            os.kill(pid, signal.SIGKILL)
        if when:
            return
        mode = "500" if deaf else server.mode
        if mode != "ok":
            server.struck[mode] = server.struck.get(mode, 0) + 1
        if mode == "late":
            time.sleep(server.late)
        if mode == "500":
            status, answer = 500, b""
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "text/xml; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if mode == "half" else answer)

    def numbered(self, method):
        """Counts the call where calls are counted; when to kill the caller, who it is, and whether it is to be served."""
        nothing = None, None, False
        if not self.server.counting():
            return nothing
        caller = owner(self.client_address[1], self.server.server_address[1])
        if caller is None:
            return nothing
        pid, location, mark = caller
        faults = os.path.join(location, "var/faults")
        try:
            number = number_of(faults, pid)
        except OSError:
            return nothing
        with open(faults + "/calls.log", "a") as log:
            log.write("%d %d %s\n" % (pid, number, method))
        when = armed(faults, pid, number, mark)
        if when:
            with open(faults + "/struck.log", "a") as log:
                log.write("%s %d %d %s\n" % (when, pid, number, method))
        deaf_to = self.server.deaf_to
        deaf = mark.startswith(deaf_to) and location != self.server.location
        return when, pid, deaf


class Proxy(http.server.ThreadingHTTPServer):
    """In front of one front-end. `mode`: ok, 500, half, late (the calls have their effect all the same)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port, location, counting):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.location, self.counting = port, location, counting
        self.deaf_to = ()  # runs of the other site whose mark begins so get no answer
        self.mode, self.late, self.struck = "ok", 12.0, {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # a client that was killed

    @property
    def endpoint(self):
        return "http://127.0.0.1:%d/RPC2" % self.server_address[1]

    def forward(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

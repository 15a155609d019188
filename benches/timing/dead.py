"""How long it takes beside a site that is dead, in the three ways in which a machine can be."""
import contextlib
import subprocess

from harness.laboratory import unique

from .measure import stretch

# of TEST-NET-2: nobody is there
NOWHERE = "198.51.100.1"


@contextlib.contextmanager
def refuses(lab):
    """Its programs have ended: the kernel refuses the connection."""
    lab.a.kill_domains()
    lab.a.front_end_kill()
    lab.a.clusters("site-lost")
    try:
        yield
    finally:
        lab.a.clusters("site-back")
        lab.a.front_end_start()


@contextlib.contextmanager
def hangs(lab):
    """Its programs are stopped: the kernel lets everybody in, and nobody answers."""
    with lab.a.hanging():
        yield


@contextlib.contextmanager
def drops(lab):
    """Its machines are off: packets go nowhere."""
    # a cable whose other end nobody listens at; who is meant is known, so that the kernel does not ask for him in vain
    for command in (
        "link add nowhere type veth peer name end", "addr add 198.51.100.2/24 dev nowhere", "link set nowhere up", "link set end up",
        "neigh add %s lladdr 02:00:00:00:00:01 dev nowhere" % NOWHERE,
    ):
        subprocess.run(["ip", *command.split()], check=True)
    with refuses(lab):
        b = lab.b
        b.configure(peer_conf=b.peer_conf_with(mon_host="%s:6789" % NOWHERE), librbd=True)
        with open(b.configuration) as file:
            text = file.read()
        b.write_configuration(text.replace(lab.a.endpoint, "http://%s:2633/RPC2" % NOWHERE))
        try:
            yield
        finally:
            b.configure(librbd=True)
            subprocess.run(["ip", "link", "del", "nowhere"], check=True)


DEATHS = {"refuses": refuses, "hangs": hangs, "drops packets": drops}


def beside(lab, death):
    """What an operator of site-b does while site-a is dead: rows of a name and a stretch."""
    machine = lab.vm_with_one_disk(unique("dead"), "journal")
    machine.register_on_b()
    lab.a.wait_records(machine.home, 10)
    rows = []
    with DEATHS[death](lab):
        with stretch() as found:
            vm = machine.start_on_b(mirrored=False)
            assert lab.b.settle(vm) == "PROLOG_FAILURE", lab.b.vm_error(vm)
        rows.append(("onevm create, until it is refused", [found]))
        for words in (("plan", vm), ("show", vm), ("list",)):
            with stretch() as found:
                lab.b.onemirror(*words, check=False)
            rows.append(("onemirror " + words[0], [found]))
        with stretch() as found:
            lab.b.onemirror("failover", vm, "--force", "--reason", "benches")
            lab.b.wait_vm(vm, "RUNNING")
        rows.append(("onemirror failover --force, until it runs", [found]))
        lab.b.action("poweroff", vm)
        lab.b.wait_vm(vm, "POWEROFF")
        with stretch() as found:
            lab.b.action("resume", vm)
            lab.b.wait_vm(vm, "RUNNING")
        rows.append(("onevm resume after that, until it runs", [found]))
    return rows

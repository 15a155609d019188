"""Types what onemirror tells an operator to type: those very commands, on the site that is named."""
import contextlib
import json
import re

from .laboratory import LabError


# what comes behind these words
NAMED = {"set-quota": "POOL", "--image": "NAME"}


def shape(way):
    """What one way is in docs/advice.md, with N for numbers and IMAGE for images."""
    text = "%s: " % way["at"]
    for number, command in enumerate(way["commands"]):
        before = {"runs": ", then ", "off": ", once off: "}.get(command.get("once"), " && ")
        words = command["command"].split(" ")
        named = {place + 1: NAMED[word] for place, word in enumerate(words) if word in NAMED}
        shaped = [named.get(place) or shape_of_word(word) for place, word in enumerate(words)]
        text += (before if number else "") + " ".join(shaped)
    return text


def shape_of_word(word):
    if "/" in word:
        return "IMAGE.aside" if word.endswith(".aside") else "IMAGE"
    return "N" if word.isdecimal() else word


class Adviser:
    """What a test does about refusals, by advice alone; `typed` are the rules and the shapes that it has typed."""

    def __init__(self, lab):
        self.lab, self.typed = lab, set()
        self.attempts = 1  # how often a command is typed before it counts as failed

    def refusal(self, site, vm):
        """What a boot of the VM would say now: the rule that refuses, and the ways out of it."""
        boot = json.loads(site.onemirror("plan", vm, "-j").stdout)["boot"]
        return boot["refused_by"], boot["advice"] or []

    def follow(self, site, vm, rule, wanted, meanwhile=None):
        """Types the way of this shape out of the refusal of a boot on this site, and returns how its last command ended.
        `meanwhile` is what others do while it is waited for a VM to run."""
        refused_by, ways = self.refusal(site, vm)
        if rule not in (refused_by, "way-out"):
            raise LabError("VM %d of %s is refused by %s, not by %s: %s" % (vm, site.name, refused_by, rule, ways))
        return self.type_one_of(site, ways, rule, wanted, meanwhile)

    def type_one_of(self, site, ways, rule, wanted, meanwhile=None):
        """Types the one of these ways, which were told on this site, that has this shape."""
        ways = [way for way in ways if way["kind"] == "type"]
        fitting = [way for way in ways if shape(way) == wanted]
        if len(fitting) != 1:
            raise LabError("not advised: %s, but %s" % (wanted, [shape(way) for way in ways]))
        (way,) = fitting
        place = site if way["at"] == "here" else self.lab.other(site)
        if way["at"] == "there" and way["site"] != place.name:
            raise LabError("%s is no name of %s" % (way["site"], place.name))
        vm = None
        for command in way["commands"]:
            if command.get("once") == "runs":
                if meanwhile:
                    meanwhile()
                place.wait_vm(vm, "RUNNING")
            elif command.get("once") == "off":
                place.wait_vm(vm, "POWEROFF")
            said = self.type(place, command["command"])
            numbers = re.findall(r"(?<= )\d+", command["command"])
            vm = int(numbers[0]) if numbers else None
        self.typed.add((rule, wanted))
        return said

    def type(self, place, command):
        for _ in range(self.attempts - 1):
            with contextlib.suppress(LabError):
                return place.type(command)
        return place.type(command)

"""What a schedule does, derived from one integer and nothing else."""
import dataclasses
import random

# Where a VM is after each operation, if everything works. Under faults it may be elsewhere; the operations are tried
# all the same, and what does not fit is to be refused.
OFF, HOME, HOME_SUSPENDED, HOME_UNDEPLOYED = "off", "home", "home-suspended", "home-undeployed"
AWAY, AWAY_OFF, AWAY_SUSPENDED, AWAY_UNDEPLOYED = "away", "away-off", "away-suspended", "away-undeployed"
# operation: (where it leads, weight)
NEXT = {
    OFF: {"resume-home": (HOME, 3), "start-away": (AWAY, 5), "failover-home": (HOME, 1), "delete-image-away": (OFF, 1),
          "revert-home": (OFF, 2)},
    HOME: {"poweroff-home": (OFF, 5), "delete-image-away": (HOME, 1), "suspend-home": (HOME_SUSPENDED, 3), "undeploy-home": (HOME_UNDEPLOYED, 2),
           "lose-home": (AWAY, 5), "start-away": (HOME, 1), "cut-home": (HOME, 3), "attach-home": (HOME, 2)},
    HOME_SUSPENDED: {"resume-home": (HOME, 2), "start-away": (HOME_SUSPENDED, 2)},
    HOME_UNDEPLOYED: {"resume-home": (HOME, 1), "start-away": (AWAY, 1)},
    AWAY: {"terminate-away": (HOME, 5), "poweroff-away": (AWAY_OFF, 4), "suspend-away": (AWAY_SUSPENDED, 2),
           "undeploy-away": (AWAY_UNDEPLOYED, 2), "resume-home": (AWAY, 1), "vanish": (AWAY, 1),
           "recreate-away": (AWAY, 2), "attach-away": (AWAY, 2)},
    AWAY_OFF: {"resume-away": (AWAY, 2), "failover-away": (AWAY, 9), "terminate-away": (HOME, 3), "resume-home": (HOME, 2)},
    AWAY_SUSPENDED: {"resume-away": (AWAY, 2), "terminate-away": (HOME, 1)},
    AWAY_UNDEPLOYED: {"resume-away": (AWAY, 2), "terminate-away": (HOME, 1)},
}
# what may come at any time and leads nowhere
ANYWHERE = {"reconcile-home": 1, "reconcile-away": 1, "crowd": 3, "vanish": 2}

SITES = ("site-a", "site-b")
# fault: (weight, the shortest and the longest time that it lasts, in seconds)
FAULTS = {
    "kill-before": (6, (20, 30)),
    "kill-after": (6, (20, 30)),
    "kill-during": (6, (20, 30)),
    "mirror-killed": (3, (2, 12)),
    "mirror-paused": (3, (2, 12)),
    "mirror-ended": (3, (60, 120)),
    "monitor-killed": (3, (2, 11)),
    "monitor-paused": (3, (2, 11)),
    "osd-paused": (3, (2, 11)),
    "run-killed": (6, (5, 15)),
    "library-killed": (3, (1, 2)),
    "library-paused": (3, (2, 11)),
    "pool-full": (4, (8, 20)),
    "front-end-stopped": (3, (1, 8)),
    "answer-500": (3, (2, 8)),
    "answer-half": (3, (2, 8)),
    "answer-late": (3, (2, 8)),
    "ssh-hangs": (3, (3, 12)),
    "log-full": (7, (5, 15)),
    "clock-stepped": (3, (5, 15)),
    "hooks-repeated": (6, (10, 25)),
    "hooks-lost": (9, (10, 25)),
    "hooks-late": (8, (15, 25)),
}


@dataclasses.dataclass(frozen=True)
class Strike:
    """One fault: what, where, how long after the operation began, and for how long (seconds)."""

    kind: str
    site: str
    delay: float
    seconds: float
    number: int  # of the external call at which a process is killed; which way a clock is stepped

    def __str__(self):
        at = " at call %d" % self.number if self.kind.startswith("kill-") else ""
        return "%s%s on %s after %.1f s for %.1f s" % (self.kind, at, self.site, self.delay, self.seconds)


@dataclasses.dataclass(frozen=True)
class Step:
    operation: str
    patience: float  # seconds until the next step, if the VM does not come to rest before
    insists: bool  # whether the operator tries again until the VM runs: most boots meet a fault at first
    strikes: tuple

    def __str__(self):
        return "%-15s %s" % (self.operation, "; ".join(map(str, self.strikes)))


@dataclasses.dataclass(frozen=True)
class Plan:
    seed: int
    steps: tuple

    @property
    def seconds(self):
        """The longest that its steps take together."""
        return sum(step.patience for step in self.steps)

    def __str__(self):
        return "seed %d\n%s" % (self.seed, "\n".join("  %s" % step for step in self.steps))


def choose(chance, weights):
    names = list(weights)
    return chance.choices(names, [weights[name] for name in names])[0]


def plan(seed):
    """The schedule of a seed: two to five operations that lead somewhere, others in between, and faults."""
    chance = random.Random(seed)
    where, steps, moves = OFF, [], chance.randint(2, 5)
    while moves > 0:
        insists = False
        if chance.random() < 0.25:
            operation = choose(chance, ANYWHERE)
        else:
            operation = choose(chance, {name: weight for name, (_, weight) in NEXT[where].items()})
            insists = NEXT[where][operation][0] != where and operation.startswith(("start-", "resume-", "failover-"))
            where = NEXT[where][operation][0]
            moves -= 1
        strikes = [strike(chance) for _ in range(chance.choice((0, 1, 1, 2)))]
        if operation in ("start-away", "failover-away") and chance.random() < 0.2:
            # home does not follow the VM's stay on the other site: the trap in which a bare promotion loses it
            strikes.append(strike(chance, "mirror-ended", "site-a"))
        # now and then in a hurry, into the middle of what is going on
        patience = chance.uniform(1, 5) if chance.random() < 0.25 else chance.uniform(12, 30)
        steps.append(Step(operation, round(patience, 1), insists and patience > 5, tuple(strikes)))
    return Plan(seed, tuple(steps))


def strike(chance, kind=None, site=None):
    kind = kind or choose(chance, {name: weight for name, (weight, _) in FAULTS.items()})
    shortest, longest = FAULTS[kind][1]
    # long runs are rare, so the early calls are the ones that a kill finds
    number = min(chance.randint(1, 36), chance.randint(1, 36))
    delay = 0.0 if kind.startswith(("kill-", "hooks-")) else round(chance.uniform(0, 5), 1)
    return Strike(kind, site or chance.choice(SITES), delay, round(chance.uniform(shortest, longest), 1), number)

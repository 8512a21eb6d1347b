"""Which faults come when: all by one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: The kinds of fault, and for how many seconds each lasts, from and to. Those of a lane come one after the other; the
#: lanes go beside each other, so that faults of several lanes meet.
LANES: dict[str, dict[str, tuple[float, float]]] = {
    "network": {
        "refuse": (0.2, 3.5),
        "hang": (0.2, 3.5),
        "delay": (0.5, 2.5),
        "cut": (0.0, 0.0),
        "drop reply of acquire": (0.5, 1.5),
        "drop reply of renew": (0.5, 1.5),
        "drop reply of release": (0.5, 1.5),
        "half-open": (0.5, 2.5),
    },
    "processes": {
        "kill child": (0.0, 0.5),
        "kill parent": (0.5, 2.0),
        "kill threads worker": (0.0, 1.0),
        "stop child": (0.3, 5.0),  # from well below the ttl to twice as long and more
        "stop parent": (0.3, 5.0),
        "stop threads worker": (0.3, 5.0),
        "warm restart": (0.0, 0.0),
        "cold restart": (0.0, 0.0),
        "shift clock": (1.0, 3.0),
    },
    "store": {
        "restart with data": (0.0, 2.5),
        "restart without data": (0.0, 2.5),
        "flush all": (0.0, 0.0),
        "flush scripts": (0.0, 0.0),
        "kill clients": (0.0, 0.0),
        "pause clients": (0.3, 3.5),
        "failover": (0.0, 1.0),
    },
}
#: Seconds between two faults of a lane, from and to.
GAP = (0.5, 2.0)

KINDS = [kind for lane in LANES.values() for kind in lane]


@dataclass(frozen=True)
class Step:
    """A fault.

    Attributes:
        at: Seconds from the start of the run, at the earliest: a lane whose fault takes longer is late.
        lane: What it is about.
        kind: What happens.
        seconds: For how long.
        pick: From 0 to 1: which of several victims, which way.
    """

    at: float
    lane: str
    kind: str
    seconds: float
    pick: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.lane:9}  {self.kind:22} {self.seconds:4.2f} s  pick {self.pick:.3f}"


def schedule(seed: int, seconds: float) -> list[Step]:
    """The faults of a run, in order of time. The same arguments give the same; a longer run begins as a shorter one.

    Each lane goes through all its kinds in random order before it begins anew, and through all of them at least once.

    Args:
        seed: Any number.
        seconds: No fault begins later, but those of the first time through.
    """
    steps = [step for lane in LANES for step in _lane(lane, seed, seconds)]
    return sorted(steps, key=lambda step: (step.at, step.lane))


def _lane(lane: str, seed: int, seconds: float) -> list[Step]:
    chance = random.Random(f"{seed} {lane}")
    steps: list[Step] = []
    at = chance.uniform(*GAP)
    while True:
        for kind in chance.sample(list(LANES[lane]), len(LANES[lane])):
            if at > seconds and len(steps) >= len(LANES[lane]):
                return steps
            step = Step(at, lane, kind, chance.uniform(*LANES[lane][kind]), chance.random())
            steps.append(step)
            at += step.seconds + chance.uniform(*GAP)

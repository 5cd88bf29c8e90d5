"""A toy, to see the entry point at work.

More about it.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Training:
    epochs: int = 2


@dataclass(frozen=True, kw_only=True)
class Toy:
    workload: str = "toy"
    seed: int = 5
    training: Training = Training()
    ending: str = "well"


EXPERIMENT = Toy()

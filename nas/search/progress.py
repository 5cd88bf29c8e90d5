"""What a person sees while a stage runs: one line, renewed in a terminal, repeated now and then in a log."""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TextIO

from nas.objectives import Objective

LOG_EVERY_SECONDS = 15.0


@dataclass
class Progress:
    """Counts a stage's trials and says how far it is, what is best so far and how long it will take."""

    title: str
    num_trials: int
    objective: Objective
    concurrency: int
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    best_value: float | None = None
    best_name: str = ""

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._running: set[str] = set()
        self._ended: Counter[str] = Counter()
        self._ended_before = 0
        self._last_print = -float("inf")

    def already(self, states: Counter[str]) -> None:
        """Trials that an earlier driver ended."""
        self._ended += states
        self._ended_before = sum(states.values())

    def start(self, trial: str) -> None:
        self._running.add(trial)
        self._show()

    def end(self, trial: str, state: str, reason: str = "") -> None:
        self._running.discard(trial)
        self._ended[state] += 1
        if state == "failed":
            clear = "\r\x1b[2K" if self.stream.isatty() else ""
            print(f"{clear}{trial} failed: {reason}", file=self.stream, flush=True)
        self._show(now=True)

    def tick(self) -> None:
        """Something happened: renews the line where that is due."""
        self._show()

    def note(self, value: float, name: str) -> None:
        """A full-budget trial of the network `name` reached `value`."""
        if self.best_value is None or self.objective.gain(value) > self.objective.gain(self.best_value):
            self.best_value, self.best_name = value, name

    def close(self) -> None:
        self._show(now=True)
        if self.stream.isatty():
            self.stream.write("\n")
            self.stream.flush()

    def line(self) -> str:
        """The line as it stands."""
        ended = sum(self._ended.values())
        states = ", ".join(f"{self._ended[state]} {state}" for state in ("done", "stopped", "failed"))
        best = "" if self.best_value is None else (
            f" | best {self.objective.words} {self.best_value:.3f} ({self.best_name})"
        )  # fmt: skip
        elapsed = time.monotonic() - self._started
        return (
            f"{self.title}: {ended}/{self.num_trials} trials ({states}, {len(self._running)} running)"
            f"{best} | {_clock(elapsed)} elapsed{self._left(elapsed, ended)}"
        )

    def _left(self, elapsed: float, ended: int) -> str:
        here = ended - self._ended_before
        waiting = self.num_trials - ended
        if here < max(1, min(self.concurrency, self.num_trials)) or waiting <= 0:
            return ""
        return f", about {_clock(elapsed / here * waiting)} left"

    def _show(self, *, now: bool = False) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[2K{self.line()}")
            self.stream.flush()
        elif now or time.monotonic() - self._last_print > LOG_EVERY_SECONDS:
            self._last_print = time.monotonic()
            print(self.line(), file=self.stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

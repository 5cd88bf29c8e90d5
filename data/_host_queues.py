"""Whose turn it is: addresses wait by host, no host is asked for too much at once, none holds up the others."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Request:
    """An address to fetch."""

    url: str
    host: str
    tries: int = 0
    failure: object = None
    """What came of the last try; for whoever tries."""


@dataclass
class _Host:
    waiting: deque[Request] = field(default_factory=deque)
    active: int = 0
    failures: int = 0
    """Tries in a row that did not reach it."""


class HostQueues:
    """Requests waiting, by host. Times are those of any clock that the caller sticks to."""

    def __init__(self, *, active_a_host: int, failures_a_host: int) -> None:
        self._active_a_host, self._failures_a_host = active_a_host, failures_a_host
        self._hosts: dict[str, _Host] = {}
        self._turns: deque[str] = deque()
        """Hosts that have a request waiting and may be asked for one more; each once."""
        self._later: list[tuple[float, int, Request]] = []
        self._count = itertools.count()
        self.num_waiting = 0

    def push(self, request: Request) -> None:
        """Lets it wait for its turn."""
        host = self._hosts.setdefault(request.host, _Host())
        host.waiting.append(request)
        self.num_waiting += 1
        if len(host.waiting) == 1 and host.active < self._active_a_host:
            self._turns.append(request.host)

    def push_later(self, request: Request, when: float) -> None:
        """Lets it wait until then, and then for its turn."""
        heapq.heappush(self._later, (when, next(self._count), request))
        self.num_waiting += 1

    def next_time(self) -> float | None:
        """When the first of those that wait for a time is due."""
        return self._later[0][0] if self._later else None

    def pop(self, now: float) -> Request | None:
        """The next request, which is active until `done`; None when no host may be asked for another one now."""
        while self._later and self._later[0][0] <= now:
            self.num_waiting -= 1
            self.push(heapq.heappop(self._later)[2])
        if not self._turns:
            return None
        name = self._turns.popleft()
        host = self._hosts[name]
        request = host.waiting.popleft()
        host.active += 1
        self.num_waiting -= 1
        if host.waiting and host.active < self._active_a_host:
            self._turns.append(name)
        return request

    def done(self, request: Request, *, was_reached: bool) -> None:
        """Ends a request that `pop` gave; `was_reached` is whether its host answered in any way."""
        host = self._hosts[request.host]
        host.active -= 1
        host.failures = 0 if was_reached else host.failures + 1
        if host.waiting and host.active == self._active_a_host - 1:
            self._turns.append(request.host)
        if not host.waiting and not host.active and not host.failures:
            del self._hosts[request.host]  # a table has more hosts than one wants to remember

    def is_given_up(self, name: str) -> bool:
        """Whether the host was not reached so often in a row that asking again is a waste of time."""
        host = self._hosts.get(name)
        return host is not None and host.failures >= self._failures_a_host

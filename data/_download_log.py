"""What became of each address, in a SQLite file beside the pictures: nothing is fetched twice, whatever is killed when."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

NAME = "downloads.sqlite"

_SECONDS_A_COMMIT = 1.0


class DownloadError(ValueError):
    """A download that cannot be done as asked; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an address."""

    status: str
    """"ok", or why there is no picture."""
    detail: str = ""
    may_pass: bool = False
    """Whether it failed for a reason that may not last."""
    path: str = ""
    """Of the picture, from the folder of the download."""
    sha256: str = ""
    height: int = 0
    width: int = 0
    bytes: int = 0


class DownloadLog:
    """Outcomes by address. One process has it open at a time."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / NAME, timeout=0.5, isolation_level=None)
        self._database.row_factory = lambda cursor, row: {
            column[0]: value for column, value in zip(cursor.description, row, strict=True)
        }
        columns = ", ".join(field.name for field in fields(Outcome))
        try:
            # Written lines are safe from a kill; a power cut may cost the last ones, which are then fetched again.
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS outcome (key BLOB PRIMARY KEY, {columns}) WITHOUT ROWID"
            )
        except sqlite3.OperationalError as error:
            self._database.close()
            if "locked" in str(error):
                raise DownloadError(f"another download is writing to {folder}; wait for it to end") from error
            raise DownloadError(f"{folder / NAME} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise DownloadError(f"{folder / NAME} is damaged ({error}); delete it to start anew") from error
        self._committed = time.monotonic()

    def find(self, url: str) -> Outcome | None:
        """What became of the address, None when nobody knows yet."""
        names = ", ".join(field.name for field in fields(Outcome))
        found: dict[str, Any] | None = self._database.execute(
            f"SELECT {names} FROM outcome WHERE key = ?", (_key(url),)
        ).fetchone()
        return None if found is None else Outcome(**{**found, "may_pass": bool(found["may_pass"])})

    def note(self, url: str, outcome: Outcome) -> None:
        """Keeps what became of the address."""
        places = ", ".join("?" for _ in fields(Outcome))
        self._database.execute(
            f"INSERT OR REPLACE INTO outcome VALUES (?, {places})", (_key(url), *astuple(outcome))
        )
        if time.monotonic() - self._committed > _SECONDS_A_COMMIT:
            self.commit()

    def forget(self, *, only_passing: bool) -> int:
        """Forgets failures, or only those that may pass, so that they are tried again; gives their number."""
        which = "status != 'ok'" + (" AND may_pass" if only_passing else "")
        return self._database.execute(f"DELETE FROM outcome WHERE {which}").rowcount

    def statuses(self) -> Counter[str]:
        """How often each status came."""
        found = self._database.execute("SELECT status, count(*) AS times FROM outcome GROUP BY status")
        return Counter({row["status"]: row["times"] for row in found})

    def pictures(self) -> tuple[int, int]:
        """How many pictures there are, different by content, and their bytes."""
        distinct = "SELECT DISTINCT sha256, bytes FROM outcome WHERE status = 'ok'"
        found = self._database.execute(
            f"SELECT count(*) AS n, coalesce(sum(bytes), 0) AS size FROM ({distinct})"
        )
        row = found.fetchone()
        return row["n"], row["size"]

    def commit(self) -> None:
        """Makes everything noted so far survive a kill."""
        self._database.execute("COMMIT")
        self._database.execute("BEGIN EXCLUSIVE")
        self._committed = time.monotonic()

    def close(self) -> None:
        self._database.execute("COMMIT")
        self._database.close()


def _key(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest()

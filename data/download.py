"""A table of captions and addresses -> a folder of pictures, and the table with a path and a status in every row.

    crosstie data download Train_GCC-training.tsv --out cc

fetches into `cc/images/` and ends with `cc/Train_GCC-training.parquet`, which the source conceptual_captions reads.

A picture is named by its content: two addresses that end in "1.jpg" never write to one file, and one picture under two
addresses is stored once. Outcomes are kept as they come (data/_download_log.py); the same command goes on from there,
also for another table with the same addresses. At the worst memory holds `connections` bodies of `max_bytes` and, a core
each, decoded pictures of `max_pixels`; time is bounded by seconds a try and tries a row. Only pictures that decode to
their end are kept, byte for byte as they came.

Why not img2dataset (1.47.0), which does the same: it pins pandas < 3, albumentations < 2, opencv < 5 and webdataset
< 0.3, and needs wandb, against pandas 3 here; it reads a body whole whatever its length, connects wherever a name or a
redirect leads, knows no limit by host and no waiting between tries, and begins an interrupted shard of 10,000 again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from data import images
from data._download_log import DownloadError, DownloadLog, Outcome
from data._fetch import Fetcher, FetchError, FetchLimits
from data._host_queues import HostQueues, Request
from data.images import MAX_PIXELS
from data.row import UnusableError
from data.sources._image_file import ImageFile
from data.sources._tables import Line, column_names, read_table, read_tsv
from data.storage import is_address

__all__ = ["DownloadError", "DownloadOptions", "DownloadReport", "Progress", "download"]

IMAGES_FOLDER = "images"
URL_COLUMNS = ("url", "URL", "image_url")
CAPTION_COLUMNS = ("caption", "TEXT", "text", "title")
OUR_COLUMNS = ("caption", "url", "path", "status", "detail", "sha256", "height", "width", "bytes")

_UNFINISHED = ".unfinished"
_LOOK_AHEAD = 20
"""Rows that wait, for each connection: enough of them to find hosts that are free."""
_MOST_SECONDS_TO_WAIT = 60.0
_ROWS_A_TURN = 1_000
"""Rows that are passed before fetches under way are looked after again."""
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """How hard to try, how much to take, and where never to go."""

    connections: int = 64
    connections_a_host: int = 8
    seconds: float = 30.0
    """For one try, from the name to the last byte, redirects included."""
    connect_seconds: float = 10.0
    tries: int = 3
    wait_seconds: float = 1.0
    """Before the second try; each further one waits twice as long, give or take a half, and as the server asks."""
    failures_a_host: int = 10
    """Tries in a row that do not reach a host, after which the rest of its rows fail at once (host_down)."""
    max_bytes: int = 20 << 20
    max_pixels: int = MAX_PIXELS
    max_redirects: int = 5
    allow_networks: tuple[str, ...] = ()
    """Networks that may be connected to though they are not public, as ("10.1.0.0/16",)."""
    allow_files: str = ""
    """A folder; file:// addresses below it are read. "" reads none."""
    respect_opt_out: bool = True
    """Whether pictures are left alone whose server says `X-Robots-Tag: noai` or `noimageai`."""
    user_agent: str = FetchLimits.user_agent
    url: str = ""
    """The column of the addresses; "" looks for url, URL or image_url. A .tsv without header is caption<TAB>url."""
    caption: str = ""
    """The column of the captions; "" looks for caption, TEXT, text or title, and does without."""
    retry: bool = False
    """Whether rows that failed before for a reason that may pass are tried again."""
    retry_all: bool = False
    """... or all that failed."""

    def __post_init__(self) -> None:
        for name in (
            "connections",
            "connections_a_host",
            "tries",
            "failures_a_host",
            "max_bytes",
            "max_pixels",
        ):
            if getattr(self, name) < 1:
                raise DownloadError(f"{name} must be 1 or more; got {getattr(self, name)}")
        for name in ("seconds", "connect_seconds"):
            if not getattr(self, name) > 0:
                raise DownloadError(f"{name} must be more than 0; got {getattr(self, name)}")
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError as error:
                raise DownloadError(f"allow_networks takes networks as 10.1.0.0/16: {error}") from None

    def limits(self) -> FetchLimits:
        """What holds for each fetch."""
        return FetchLimits(
            max_bytes=self.max_bytes,
            seconds=self.seconds,
            connect_seconds=self.connect_seconds,
            max_redirects=self.max_redirects,
            allow_networks=self.allow_networks,
            respect_opt_out=self.respect_opt_out,
            user_agent=self.user_agent,
        )


@dataclass
class Progress:
    """Where a download is. Rows that share an address count together."""

    rows: int
    rows_passed: int = 0
    """Read from the table so far, in its order."""
    fetched: int = 0
    """Addresses that were settled in this run."""
    bytes: int = 0
    active: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Of all addresses that are settled, in this run or before."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start of this run."""
        return time.monotonic() - self.started

    def line(self) -> str:
        """The state in one line: how far, how fast, and why the others failed."""
        rate = self.fetched / max(self.seconds, 1e-3)
        failed = ", ".join(f"{why} {n:,}" for why, n in self.statuses.most_common() if why != "ok")
        settled = self.statuses.total()
        return (
            f"{self.rows_passed:,}/{self.rows:,} rows · {rate:.0f}/s · {self.bytes / 1e6 / max(self.seconds, 1e-3):.1f} MB/s"
            f" · ok {self.statuses['ok']:,} of {settled:,}{failed and f' · {failed}'}"
        )


@dataclass(frozen=True, kw_only=True)
class DownloadReport:
    """What came of a table."""

    table: str
    """The Parquet file with a status in every row."""
    rows: int
    statuses: dict[str, int]
    """{status: rows}, the most frequent first"""
    pictures: int
    """In the folder, different by content."""
    bytes: int
    """Of those."""
    seconds: float
    """Of this run."""


def download(
    table: str | Path,
    folder: str | Path,
    options: DownloadOptions | None = None,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> DownloadReport:
    """Fetches the pictures of `table` (CSV, TSV, JSONL or Parquet) into `folder` and writes its table there.

    `progress` is called about once a second. May be interrupted at any moment; the same call goes on. Raises
    DownloadError for a table without addresses, a folder that another download is using, or one that is an address.
    """
    options = options or DownloadOptions()
    if is_address(folder):
        raise DownloadError(f"pictures are fetched to a folder on disk; prepare writes to {folder} then")
    table, folder = Path(table), Path(folder).absolute()
    rows = _Rows.of(table, options)
    target = folder / f"{table.stem}.parquet"
    if target.exists() and target.samefile(table):
        raise DownloadError(f"{target} would be overwritten; choose another folder than the table's own")
    state = Progress(rows=sum(1 for _ in rows))
    folder.mkdir(parents=True, exist_ok=True)
    log = DownloadLog(folder)
    try:
        store = _Store(folder, options.max_pixels)
        store.remove_unfinished()
        if options.retry or options.retry_all:
            log.forget(only_passing=not options.retry_all)
        state.statuses = log.statuses()
        asyncio.run(_fetch_all(rows, log, store, options, state, progress))
        log.commit()
        return _write_table(target, rows, log, state)
    finally:
        log.close()


# --- the table


@dataclass(frozen=True)
class _Rows:
    """The rows of a table, read anew each time."""

    table: Path
    url: str
    caption: str
    columns: tuple[str, ...]
    """Others, which are kept."""
    has_header: bool

    @classmethod
    def of(cls, table: Path, options: DownloadOptions) -> _Rows:
        if table.suffix.lower() == ".tsv" and _is_without_header(table):
            return cls(table, "url", "caption", (), has_header=False)
        there = column_names(table)
        url = options.url or next((name for name in URL_COLUMNS if name in there), "")
        caption = options.caption or next((name for name in CAPTION_COLUMNS if name in there), "")
        for what, name in (("url", url), ("caption", caption)):
            if name not in there and (name or what == "url"):
                asked = f"no column {name!r}" if name else f"none of the columns {', '.join(URL_COLUMNS)}"
                raise DownloadError(f"{table} has {asked}; it has: {', '.join(there)}; say {what}=NAME")
        others = tuple(name for name in there if name not in (url, caption, *OUR_COLUMNS))
        return cls(table, url, caption, others, has_header=True)

    def __iter__(self) -> Iterator[Line]:
        if not self.has_header:
            return read_tsv(self.table, (self.caption, self.url))
        wanted = [name for name in (self.url, self.caption, *self.columns) if name]
        return read_table(self.table, wanted)

    def address(self, line: Line) -> str:
        """The row's address. Raises UnusableError for a row that is broken or has none."""
        return line.required(self.url)


def _is_without_header(table: Path) -> bool:
    """Whether the first line of a TSV is a caption and an address, as Conceptual Captions is published."""
    first = next(read_tsv(table, ("caption", "url")), None)
    return first is not None and not first.problem and "://" in first.values["url"]


def _write_table(target: Path, rows: _Rows, log: DownloadLog, state: Progress) -> DownloadReport:
    kinds = {"height": pa.int32(), "width": pa.int32(), "bytes": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in (*OUR_COLUMNS, *rows.columns)])
    statuses: Counter[str] = Counter()
    unfinished = target.with_name(target.name + _UNFINISHED)
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        records: list[dict[str, Any]] = []
        for line in rows:
            records.append(_record(line, rows, log))
            statuses[records[-1]["status"]] += 1
            if len(records) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(records, schema))
                records = []
        writer.write_table(pa.Table.from_pylist(records, schema))
    os.replace(unfinished, target)
    pictures, num_bytes = log.pictures()
    return DownloadReport(
        table=str(target),
        rows=statuses.total(),
        statuses=dict(statuses.most_common()),
        pictures=pictures,
        bytes=num_bytes,
        seconds=state.seconds,
    )


def _record(line: Line, rows: _Rows, log: DownloadLog) -> dict[str, Any]:
    try:
        url = rows.address(line)
        outcome = log.find(url) or Outcome(status="not_tried")
    except UnusableError as error:
        url, outcome = "", Outcome(status=error.reason, detail=str(error))
    values = {name: _as_text(line.values.get(name)) for name in rows.columns}
    return values | {
        "caption": _as_text(line.values.get(rows.caption)) or "",
        "url": _as_text(url),
        "path": outcome.path,
        "status": outcome.status,
        "detail": _as_text(outcome.detail),
        "sha256": outcome.sha256,
        "height": outcome.height,
        "width": outcome.width,
        "bytes": outcome.bytes,
    }


def _as_text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if not isinstance(value, str):
        value = str(value) if isinstance(value, bool | int | float) else json.dumps(value, default=repr)
    return value.encode("utf-8", "backslashreplace").decode()


# --- fetching


async def _fetch_all(
    rows: _Rows,
    log: DownloadLog,
    store: _Store,
    options: DownloadOptions,
    state: Progress,
    progress: Callable[[Progress], None],
) -> None:
    run = _Run(log, store, options, state)
    fetcher = Fetcher(
        options.limits(),
        connections=options.connections,
        connections_a_host=options.connections_a_host,
    )
    async with fetcher:
        try:
            await run.through(iter(rows), rows, fetcher, progress)
        finally:
            await run.stop()
    progress(state)


class _Run:
    """One pass over the table: keeps requests waiting, fetches under way, and their outcomes in the log."""

    def __init__(self, log: DownloadLog, store: _Store, options: DownloadOptions, state: Progress) -> None:
        self._log, self._store, self._options, self._state = log, store, options, state
        self._queues = HostQueues(
            active_a_host=options.connections_a_host, failures_a_host=options.failures_a_host
        )
        self._under_way: dict[asyncio.Task[Outcome | FetchError], Request] = {}
        self._known: set[str] = set()
        """Addresses that wait or are under way."""
        self._decoding = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")

    async def through(
        self, lines: Iterator[Line], rows: _Rows, fetcher: Fetcher, progress: Callable[[Progress], None]
    ) -> None:
        """Fetches until every row is settled."""
        said = 0.0
        is_at_end = False
        while True:
            if not is_at_end:
                is_at_end = self._take(lines, rows)
            self._start(fetcher)
            if not self._under_way and not self._queues.num_waiting:
                if is_at_end:
                    return
                continue
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                self._state.active = len(self._under_way)
                progress(self._state)
            await self._wait()

    async def stop(self) -> None:
        """Ends what is under way; it will be fetched again."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._decoding.shutdown(cancel_futures=True)

    def _take(self, lines: Iterator[Line], rows: _Rows) -> bool:
        """Lets rows wait, up to as many as is useful; whether the table is at its end."""
        enough = _LOOK_AHEAD * self._options.connections
        if self._queues.num_waiting >= enough:
            return False
        for taken, line in enumerate(lines):
            self._state.rows_passed += 1
            try:
                url = rows.address(line)
            except UnusableError:
                continue
            if url not in self._known and self._log.find(url) is None:
                self._ask_for(url)
            # Also after so many rows that need nothing, or nobody else would get a turn on going on.
            if self._queues.num_waiting >= enough or taken >= _ROWS_A_TURN:
                return False
        return True

    def _ask_for(self, url: str) -> None:
        host = _host(url, self._options)
        if isinstance(host, FetchError):
            self._settle(url, Outcome(status=host.status, detail=str(host)))
            return
        self._known.add(url)
        self._queues.push(Request(url, host))

    def _start(self, fetcher: Fetcher) -> None:
        while len(self._under_way) < self._options.connections:
            request = self._queues.pop(time.monotonic())
            if request is None:
                return
            if self._queues.is_given_up(request.host):
                self._queues.done(request, was_reached=False)
                self._settle(request.url, self._given_up(request))
                continue
            request.tries += 1
            self._under_way[asyncio.create_task(self._try(request.url, fetcher))] = request

    def _given_up(self, request: Request) -> Outcome:
        if isinstance(request.failure, Outcome):
            return request.failure
        detail = f"{request.host} was not reached {self._options.failures_a_host} times in a row"
        return Outcome(status="host_down", detail=detail, may_pass=True)

    async def _wait(self) -> None:
        """Until a fetch ends, or a request has waited long enough."""
        when = self._queues.next_time()
        seconds = 1.0 if when is None else min(1.0, max(0.0, when - time.monotonic()))
        if not self._under_way:
            await asyncio.sleep(seconds)
            return
        ended, _ = await asyncio.wait(self._under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            self._end(self._under_way.pop(task), task.result())

    def _end(self, request: Request, outcome: Outcome | FetchError) -> None:
        if isinstance(outcome, Outcome):
            self._queues.done(request, was_reached=True)
            self._settle(request.url, outcome)
            return
        self._queues.done(request, was_reached=outcome.was_reached)
        tries = f" ({request.tries} tries)" if request.tries > 1 else ""
        failure = Outcome(
            status=outcome.status, detail=f"{str(outcome)[:280]}{tries}", may_pass=outcome.may_pass
        )
        if not outcome.may_pass or request.tries == self._options.tries:
            self._settle(request.url, failure)
            return
        request.failure = failure
        wait = self._options.wait_seconds * 2 ** (request.tries - 1) * _spread(request)
        wait = min(max(wait, outcome.wait_seconds), _MOST_SECONDS_TO_WAIT)
        self._queues.push_later(request, time.monotonic() + wait)

    def _settle(self, url: str, outcome: Outcome) -> None:
        self._known.discard(url)
        self._log.note(url, outcome)
        self._state.statuses[outcome.status] += 1
        self._state.fetched += 1
        self._state.bytes += outcome.bytes

    async def _try(self, url: str, fetcher: Fetcher) -> Outcome | FetchError:
        try:
            if url.lower().startswith("file:"):
                content = await self._in_thread(self._file, url)
            else:
                content = await fetcher.fetch(url)
            return await self._in_thread(self._store.keep, content)
        except FetchError as error:
            return error

    def _file(self, url: str) -> bytes:
        try:
            path = os.path.normpath(unquote(urlsplit(url).path))
            return ImageFile(path, os.path.abspath(self._options.allow_files)).read()
        except UnusableError as error:
            raise FetchError(error.reason, str(error)) from None

    async def _in_thread(self, function: Callable[..., Any], argument: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function, argument)


def _host(url: str, options: DownloadOptions) -> str | FetchError:
    """What limits by host go by; or why the address is not even tried."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    except ValueError as error:
        return FetchError("bad_url", str(error))
    if scheme == "file":
        return "" if options.allow_files else FetchError("forbidden_scheme", "file addresses are not allowed")
    if scheme not in ("http", "https"):
        return FetchError(
            "forbidden_scheme" if scheme else "bad_url", f"only http and https are fetched: {url[:80]}"
        )
    return host or FetchError("bad_url", f"no host in {url[:80]}")


def _spread(request: Request) -> float:
    """0.5 to 1.5, to spread the next tries of many requests that failed together."""
    digest = hashlib.blake2b(f"{request.url} {request.tries}".encode("utf-8", "surrogatepass"), digest_size=4)
    return 0.5 + int.from_bytes(digest.digest(), "big") / 2**32


@dataclass(frozen=True)
class _Store:
    """Pictures by their content, below `folder`/images."""

    folder: Path
    max_pixels: int

    def keep(self, content: bytes) -> Outcome:
        """Puts a picture there, unless it is there. Raises FetchError for what is no picture, or a damaged one."""
        try:
            height, width = images.check(content, name="the answer", max_pixels=self.max_pixels)
            ending = images.file_ending(content)
        except UnusableError as error:
            raise FetchError(error.reason, str(error)) from None
        digest = hashlib.sha256(content).hexdigest()
        path = f"{IMAGES_FOLDER}/{digest[:2]}/{digest[:40]}{ending}"
        self._write(self.folder / path, content)
        return Outcome(status="ok", path=path, sha256=digest, height=height, width=width, bytes=len(content))

    def remove_unfinished(self) -> None:
        """Removes what a killed download was writing."""
        for path in self._unfinished_folder().glob("*"):
            path.unlink()

    def _unfinished_folder(self) -> Path:
        return self.folder / IMAGES_FOLDER / _UNFINISHED

    def _write(self, path: Path, content: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == len(content):
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._unfinished_folder() / f"{path.name}.{time.monotonic_ns()}"
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)

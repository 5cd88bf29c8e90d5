"""The download engine against a server on this machine that does everything a server should not."""

import asyncio
import contextlib
import csv
import gzip
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.download import DownloadError, DownloadOptions, Progress, download
from data.images import encode
from data.sources._source import load_source

ROOT = Path(__file__).resolve().parents[2]
SERVER, OTHER_NAME, FORBIDDEN = "127.0.0.2", "127.0.0.3", "127.0.0.1"  # all of them this machine
ALLOWED = ("127.0.0.2/31",)
QUICK: dict[str, Any] = {"seconds": 1.0, "connect_seconds": 1.0, "wait_seconds": 0.05, "allow_networks": ALLOWED,
                         "max_bytes": 1 << 20, "max_pixels": 1_000_000}  # fmt: skip


GZIP_BOMB = gzip.compress(bytes(32 << 20), compresslevel=1)


def picture(number: int) -> bytes:
    return encode(
        np.random.default_rng(number).integers(0, 256, (3, 24, 24), dtype=np.uint8), jpeg_quality=90
    )


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 5_000, 5_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Misbehaving:
    """A server of which each path has its own way; counts what it was asked for."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.active = self.most_active = 0
        self.port = 0
        self.secret_hits = 0

    def pieces(self, path: str) -> AsyncIterator[bytes]:
        return getattr(self, f"_{path.partition('?')[0].strip('/').partition('/')[0].replace('-', '_')}")(
            path
        )

    async def _good(self, path: str) -> AsyncIterator[bytes]:
        yield answer(picture(int(path.rpartition("/")[2].partition(".")[0])))

    async def _named(self, path: str) -> AsyncIterator[bytes]:  # /named/7/1.jpg
        yield answer(picture(100 + int(path.split("/")[2])))

    async def _waiting(self, path: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.1)
        yield answer(picture(int(path.rpartition("/")[2])))

    async def _slow(self, path: str) -> AsyncIterator[bytes]:
        content = answer(picture(0))
        for start in range(len(content)):
            yield content[start : start + 1]
            await asyncio.sleep(0.2)

    async def _truncated(self, path: str) -> AsyncIterator[bytes]:
        yield answer(picture(0))[:-200]

    async def _cut(self, path: str) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + picture(0)[:-200]

    async def _missing(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"<html>gone</html>", "404 Not Found")

    async def _flaky(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "500 Oops") if self.hits[path] == 1 else answer(picture(201))

    async def _busy(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "429 Slow down", Retry_After="1") if self.hits[path] == 1 else answer(picture(202))

    async def _down(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "500 Oops")

    async def _dropped(self, path: str) -> AsyncIterator[bytes]:
        yield b""

    async def _nonsense(self, path: str) -> AsyncIterator[bytes]:
        yield b"SSH-2.0-OpenSSH_9.6\r\n"

    async def _headers(self, path: str) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"X: " + b"y" * 4000 + b"\r\n"

    async def _endless(self, path: str) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + picture(0)
        while True:
            yield b"\0" * 65_536

    async def _gigabyte(self, path: str) -> AsyncIterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
        while True:
            yield b"\0" * 65_536

    async def _page(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"<!DOCTYPE html><html><body>sign in</body></html>", Content_Type="image/jpeg")

    async def _empty(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"")

    async def _bomb(self, path: str) -> AsyncIterator[bytes]:
        yield answer(bomb())

    async def _gzip(self, path: str) -> AsyncIterator[bytes]:
        yield answer(gzip.compress(picture(203)), Content_Encoding="gzip")

    async def _gzip_bomb(self, path: str) -> AsyncIterator[bytes]:
        yield answer(GZIP_BOMB, Content_Encoding="gzip")

    async def _noai(self, path: str) -> AsyncIterator[bytes]:
        yield answer(picture(0), X_Robots_Tag="noimageai, noindex")

    async def _to(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "302 Found", Location=unquote(path.removeprefix("/to/")))

    async def _loop(self, path: str) -> AsyncIterator[bytes]:
        yield answer(b"", "302 Found", Location=f"/loop/{int(path.rpartition('/')[2]) % 3 + 1}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        path = ""
        try:
            path = (await reader.readline()).split()[1].decode()
            while (await reader.readline()).strip():
                pass
            self.hits[path] += 1
            if path.startswith("/silent"):
                await reader.read()  # until the other side has had enough
                return
            async for piece in self.pieces(path):
                writer.write(piece)
                self.sent[path] += len(piece)
                await writer.drain()
        except (ConnectionError, IndexError):
            pass
        finally:
            self.active -= 1
            writer.close()

    async def secret(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.secret_hits += 1
        writer.write(answer(picture(666)))
        writer.close()


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    """Answers at SERVER and OTHER_NAME; what listens at FORBIDDEN on the same port must never be reached."""
    misbehaving = Misbehaving()
    loop = asyncio.new_event_loop()
    listening: list[asyncio.Server] = []
    with socket.socket() as probe:
        probe.bind((SERVER, 0))
        misbehaving.port = probe.getsockname()[1]
    for address, way in [
        (SERVER, misbehaving.serve),
        (OTHER_NAME, misbehaving.serve),
        (FORBIDDEN, misbehaving.secret),
        ("::1", misbehaving.secret),
    ]:
        with contextlib.suppress(OSError) if address == "::1" else contextlib.nullcontext():
            listening.append(loop.run_until_complete(asyncio.start_server(way, address, misbehaving.port)))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield misbehaving
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for one in listening:
        one.close()
    loop.set_exception_handler(lambda loop, context: None)  # requests that were under way
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


def write_tsv(path: Path, urls: list[str]) -> Path:
    path.write_text("".join(f"caption {i}\t{url}\n" for i, url in enumerate(urls)), encoding="utf-8")
    return path


def fetched(folder: Path, urls: list[str], **changes: Any) -> list[dict[str, Any]]:
    """The rows that `download` gives for these addresses."""
    table = write_tsv(folder.parent / f"{folder.name}.tsv", urls)
    report = download(table, folder, DownloadOptions(**{**QUICK, **changes}))
    rows = pq.read_table(report.table).to_pylist()
    assert [row["caption"] for row in rows] == [f"caption {i}" for i in range(len(urls))]
    assert report.statuses == Counter(row["status"] for row in rows)
    return rows


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_right_rows_are_kept_and_the_others_say_why(server: Misbehaving, tmp_path: Path):
    here, secret = f"http://{SERVER}:{server.port}", f"http://{FORBIDDEN}:{server.port}/secret.png"
    expected = {
        f"{here}/good/1.jpg": "ok",
        f"{here}/good/2.jpg?size=large#top": "ok",
        f"{here}/named/1/1.jpg": "ok",
        f"{here}/named/2/1.jpg": "ok",
        f"{here}/to//good/3.jpg": "ok",
        f"{here}/flaky/1": "ok",
        f"{here}/busy/1": "ok",
        f"{here}/gzip": "ok",
        f"{here}/slow": "timeout",
        f"{here}/silent": "timeout",
        f"{here}/truncated": "truncated",
        f"{here}/cut": "damaged_image",
        f"{here}/missing": "http_404",
        f"{here}/down": "http_500",
        f"{here}/dropped": "connection",
        f"{here}/nonsense": "bad_response",
        f"{here}/headers": "bad_response",
        f"{here}/endless": "too_large",
        f"{here}/gigabyte": "too_large",
        f"{here}/gzip-bomb": "too_large",
        f"{here}/page": "not_an_image",
        f"{here}/empty": "empty",
        f"{here}/bomb": "image_too_large",
        f"{here}/noai": "opted_out",
        f"{here}/loop/1": "redirects",
        f"{here}/to/{secret}": "forbidden_address",
        f"{here}/to/http://[::1]:{server.port}/x": "forbidden_address",
        f"{here}/to/http://10.0.0.1/x.jpg": "forbidden_address",
        f"{here}/to/http://192.168.1.1/x.jpg": "forbidden_address",
        f"{here}/to/http://169.254.169.254/latest/meta-data/": "forbidden_address",
        f"{here}/to/file:///etc/passwd": "forbidden_scheme",
        f"{here}/to/ftp://{SERVER}/x.jpg": "forbidden_scheme",
        secret: "forbidden_address",
        f"http://localhost:{server.port}/x": "forbidden_address",
        f"http://2130706433:{server.port}/x": "bad_url",  # 127.0.0.1 as one number, and cut short
        f"http://127.1:{server.port}/x": "bad_url",
        f"http://0x7f000001:{server.port}/x": "forbidden_address",
        f"http://[::ffff:127.0.0.1]:{server.port}/x": "forbidden_address",
        f"http://0.0.0.0:{server.port}/x": "forbidden_address",
        "http://10.1.2.3/x.jpg": "forbidden_address",
        f"http://{SERVER}:1/x.jpg": "connection",
        "file:///etc/hostname": "forbidden_scheme",
        "ftp://example.org/x.jpg": "forbidden_scheme",
        "javascript:alert(1)": "forbidden_scheme",
        "just words": "bad_url",
        "http://": "bad_url",
        "http://[nonsense/x.jpg": "bad_url",
    }
    started = time.monotonic()
    rows = fetched(tmp_path / "out", list(expected), seconds=2.0)
    assert {row["url"]: row["status"] for row in rows} == expected
    assert time.monotonic() - started < 30
    assert server.secret_hits == 0

    for row in rows:
        assert (row["status"] == "ok") == bool(row["path"])
        assert (row["status"] == "ok") == (not row["detail"])
        if row["path"]:
            content = (tmp_path / "out" / row["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == row["sha256"]
            assert (len(content), row["height"], row["width"]) == (row["bytes"], 24, 24)
    kept = {
        row["url"].removeprefix(here): (tmp_path / "out" / row["path"]).read_bytes()
        for row in rows
        if row["path"]
    }
    assert kept["/named/1/1.jpg"] == picture(101)  # the same last part, other pictures
    assert kept["/named/2/1.jpg"] == picture(102)
    assert kept["/to//good/3.jpg"] == picture(3)
    assert kept["/gzip"] == picture(203)
    assert {path.relative_to(tmp_path / "out").parts[0] for path in files_below(tmp_path / "out")} == {
        "images", "downloads.sqlite", "out.parquet",
    }  # fmt: skip
    assert len(files_below(tmp_path / "out" / "images")) == len(kept) == 8

    assert server.hits["/down"] == server.hits["/silent"] == server.hits["/truncated"] == 3
    assert server.hits["/missing"] == server.hits["/page"] == server.hits["/endless"] == 1
    for path in ("/endless", "/gigabyte", "/headers"):
        assert server.sent[path] < 12 << 20, path  # what the system buffers on the way, and no gigabyte


def test_a_body_without_end_takes_no_memory(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    tracemalloc.start()
    rows = fetched(tmp_path / "out", [f"{here}/endless", f"{here}/gigabyte"], max_bytes=1 << 20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {row["status"] for row in rows} == {"too_large"}
    assert most < 12 << 20


def test_nothing_that_was_settled_is_asked_for_again(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    urls = [
        f"{here}/good/1.jpg",
        f"{here}/good/1.jpg",
        f"{here}/named/1/1.jpg",
        f"{here}/missing",
        f"{here}/down",
    ]
    first = fetched(tmp_path / "out", urls)
    hits = server.hits.copy()
    assert hits["/good/1.jpg"] == 1  # two rows, one address
    assert fetched(tmp_path / "out", urls) == first
    assert server.hits == hits
    fetched(tmp_path / "out", urls, retry=True)
    assert server.hits - hits == {"/down": 3}
    fetched(tmp_path / "out", urls, retry_all=True)
    assert server.hits - hits == {"/down": 6, "/missing": 1}


def test_one_picture_under_two_addresses_is_stored_once(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    one, other = fetched(tmp_path / "out", [f"{here}/good/5.jpg", f"{here}/good/5.jpg?copy"])
    assert one["path"] == other["path"]
    assert one["path"].endswith(".jpg")
    assert len(files_below(tmp_path / "out" / "images")) == 1


# Downloads until it is killed.
KILLED = """
import json, sys
from data.download import DownloadOptions, download

table, folder, options = json.loads(sys.argv[1])
download(table, folder, DownloadOptions(**options))
"""


def test_killed_and_resumed(server: Misbehaving, tmp_path: Path):
    urls = [f"http://{SERVER}:{server.port}/waiting/{number}" for number in range(60)]
    table = write_tsv(tmp_path / "cc.tsv", urls)
    options = {**QUICK, "seconds": 5.0, "connections": 2}
    given = json.dumps([str(table), str(tmp_path / "out"), options])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, given], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while server.hits.total() < 35 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "cc.parquet").exists()
    (tmp_path / "out" / "images" / ".unfinished").mkdir(exist_ok=True)
    (tmp_path / "out" / "images" / ".unfinished" / "half.jpg").write_bytes(b"\xff\xd8")
    before = server.hits.total()
    report = download(table, tmp_path / "out", DownloadOptions(**{**options, "connections": 8}))
    assert report.statuses == {"ok": 60}
    assert report.pictures == len(files_below(tmp_path / "out" / "images")) == 60
    assert server.hits.total() - before < 60  # a second's worth at most is asked for again
    assert max(server.hits.values()) <= 2
    paths = pq.read_table(report.table)["path"].to_pylist()
    assert [(tmp_path / "out" / path).read_bytes() for path in paths] == [picture(n) for n in range(60)]


def test_limits_by_host_hold_and_a_slow_host_does_not_hold_up_another(server: Misbehaving, tmp_path: Path):
    slow = [f"http://{SERVER}:{server.port}/silent?{number}" for number in range(6)]
    quick = [f"http://{OTHER_NAME}:{server.port}/good/{number}.jpg" for number in range(20)]
    quick_done_after: list[float] = []
    table = write_tsv(tmp_path / "t.tsv", slow + quick)

    def note(progress: Progress) -> None:
        if progress.statuses["ok"] == 20:
            quick_done_after.append(progress.seconds)

    options = DownloadOptions(**{**QUICK, "tries": 1, "connections": 5, "connections_a_host": 2})
    report = download(table, tmp_path / "out", options, progress=note)
    assert report.statuses == {"ok": 20, "timeout": 6}
    assert server.most_active <= 4  # two a host
    assert report.seconds > 2.9  # six of a second each, two at a time
    assert quick_done_after[0] < report.seconds - 0.5


def test_a_host_that_is_down_costs_a_few_tries_only(server: Misbehaving, tmp_path: Path):
    urls = [f"http://{SERVER}:1/{number}.jpg" for number in range(50)]
    rows = fetched(tmp_path / "out", urls, tries=2, connections=2, failures_a_host=4)
    counts = Counter(row["status"] for row in rows)
    assert counts["host_down"] >= 40
    assert 4 <= counts["connection"] <= 8
    assert "127.0.0.2 was not reached 4 times in a row" in rows[-1]["detail"]


def test_files_only_where_they_are_allowed(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a b.jpg").write_bytes(picture(1))
    (tmp_path / "secret.jpg").write_bytes(picture(2))
    (tmp_path / "mine" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    mine = tmp_path / "mine"
    urls = [
        f"file://{mine}/a%20b.jpg",
        f"file://{mine}/../secret.jpg",
        f"file://{mine}/link.jpg",
        f"file://{mine}/x",
    ]
    assert {row["status"] for row in fetched(tmp_path / "none", urls)} == {"forbidden_scheme"}
    rows = fetched(tmp_path / "some", urls, allow_files=str(mine))
    assert [row["status"] for row in rows] == ["ok", "path_escape", "path_escape", "missing_file"]


def test_tables_with_headers_keep_their_other_columns(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    table = tmp_path / "laion.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ["URL", "TEXT", "similarity", "status"],
                [f"{here}/good/1.jpg", "a, b", "0.3", "old"],
                ["", "none", "", ""],
            ]
        )
    report = download(table, tmp_path / "out", DownloadOptions(**QUICK))
    good, bad = pq.read_table(report.table).to_pylist()
    assert (good["caption"], good["similarity"], good["status"]) == ("a, b", "0.3", "ok")
    assert (bad["caption"], bad["status"], bad["detail"]) == ("none", "bad_row", "laion.csv:3: no URL")

    (tmp_path / "other.csv").write_text("caption,link\nx,http://example.org\n")
    with pytest.raises(
        DownloadError, match="none of the columns url, URL, image_url; it has: caption, link; say url=NAME"
    ):
        download(tmp_path / "other.csv", tmp_path / "out")
    with pytest.raises(DownloadError, match="has no column 'words'; it has: caption, link"):
        download(tmp_path / "other.csv", tmp_path / "out", DownloadOptions(url="link", caption="words"))


def test_conceptual_captions_reads_what_was_downloaded(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    table = write_tsv(tmp_path / "Train_GCC-training.tsv", [f"{here}/good/1.jpg", f"{here}/missing"])
    download(table, tmp_path / "cc", DownloadOptions(**QUICK))
    source = load_source("conceptual_captions")
    row, dropped = list(source.rows(str(tmp_path / "cc"), seed=0, options=source.options({})))
    assert (row.caption, row.image.read()) == ("caption 0", picture(1))
    assert dropped.reason == "not_downloaded"
    assert "http_404" in dropped.detail


def test_two_downloads_do_not_share_a_folder(server: Misbehaving, tmp_path: Path):
    here = f"http://{SERVER}:{server.port}"
    table = write_tsv(tmp_path / "t.tsv", [f"{here}/silent"])
    first = threading.Thread(target=download, args=(table, tmp_path / "out", DownloadOptions(**{**QUICK, "seconds": 2.0, "tries": 1})))  # fmt: skip
    first.start()
    while not server.hits:
        time.sleep(0.01)
    with pytest.raises(DownloadError, match="another download is writing to"):
        download(table, tmp_path / "out", DownloadOptions(**QUICK))
    first.join()


def test_impossible_requests_are_refused(tmp_path: Path):
    table = write_tsv(tmp_path / "t.tsv", ["http://example.org/x.jpg"])
    with pytest.raises(DownloadError, match="pictures are fetched to a folder on disk"):
        download(table, "s3://bucket/x")
    with pytest.raises(DownloadError, match="tries must be 1 or more; got 0"):
        DownloadOptions(tries=0)
    with pytest.raises(
        DownloadError, match=r"allow_networks takes networks as 10\.1\.0\.0/16: .*'everything'"
    ):
        DownloadOptions(allow_networks=("everything",))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a Parquet file"):
        download(tmp_path / "t.parquet", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "downloads.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(DownloadError, match=r"downloads\.sqlite is damaged .*delete it to start anew"):
        download(table, tmp_path / "out")


def test_a_line_says_how_far_how_fast_and_why_not():
    progress = Progress(
        rows=2000, rows_passed=500, fetched=300, bytes=6_000_000, started=time.monotonic() - 10
    )
    progress.statuses.update({"ok": 250, "http_404": 40, "timeout": 10})
    assert progress.line() == "500/2,000 rows · 30/s · 0.6 MB/s · ok 250 of 300 · http_404 40, timeout 10"

"""A preparation that was killed goes on where it was, and ends with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from data import images
from data._set_writer import SetWriter
from data.manifest import ShardError
from data.prepare import prepare
from data.shards import open_shards

FilesOf: TypeAlias = Callable[[Path], dict[str, str]]


ROOT = Path(__file__).resolve().parents[2]

# Prepares, and is killed at the item of that number: the hard way, with no chance to tidy up.
KILLED = """
import json, os, signal, sys
from data import _split_writer
from data._set_writer import SetWriter
from data.prepare import prepare

_split_writer.IMAGE_BYTES_A_GROUP, _split_writer.IMAGE_BYTES_A_FILE = 8_000, 24_000
given, add, left = json.loads(sys.argv[1]), SetWriter.add, int(sys.argv[2])

def counting_add(self, item):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    add(self, item)

SetWriter.add = counting_add
prepare(**given)
"""


def prepared(table: Any, folder: Path, **changes) -> None:
    prepare("own_table", table.path, folder, seed=0, options=table.options, size=48, workers=1, **changes)


def killed_at(item: int, table: Any, folder: Path) -> None:
    given = {"source_name": "own_table", "path": table.path, "folder": str(folder), "seed": 0, "options": table.options,
             "size": 48, "workers": 2}  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given), str(item)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL


def test_killed_and_resumed_is_the_same_to_the_byte(
    files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
):
    prepared(mixed_table, tmp_path / "whole")
    resumed = tmp_path / "resumed"
    for item in (60, 100, mixed_table.num_items - 1):  # three times the hard way, each further on
        killed_at(item, mixed_table, resumed)
        assert not resumed.exists()
        shards = [path.name for path in Path(f"{resumed}.partial").glob("*.parquet")]
        assert "train-00000.parquet" in shards

    decoded: list[str] = []
    standard_jpeg = images.standard_jpeg

    def counted(stored: bytes, *, name: str, **options) -> bytes:
        decoded.append(name)
        return standard_jpeg(stored, name=name, **options)

    monkeypatch.setattr(images, "standard_jpeg", counted)
    prepared(mixed_table, resumed)
    assert files_of(resumed) == files_of(tmp_path / "whole")
    assert not Path(f"{resumed}.partial").exists()
    open_shards(resumed)
    assert 0 < len(decoded) < 40  # of 64 pictures, those whose shard was not finished


def test_shards_that_were_damaged_meanwhile_are_made_again(
    files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None
):
    prepared(mixed_table, tmp_path / "whole")
    killed_at(mixed_table.num_items - 1, mixed_table, tmp_path / "resumed")
    partial = tmp_path / "resumed.partial"
    assert (partial / "train-00001.parquet").exists()
    damaged = bytearray((partial / "train-00001.parquet").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (partial / "train-00001.parquet").write_bytes(bytes(damaged))
    (partial / "validation-00000.parquet").unlink(missing_ok=True)
    (partial / "test-00000.parquet.unfinished").write_bytes(b"PAR1")
    killed_at(mixed_table.num_items - 1, mixed_table, tmp_path / "resumed")
    prepared(mixed_table, tmp_path / "resumed")
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")


def test_a_table_that_changed_meanwhile_is_prepared_anew(
    files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None
):
    killed_at(mixed_table.num_items - 1, mixed_table, tmp_path / "resumed")
    table = Path(mixed_table.path)
    table.write_text(table.read_text().replace("plain words", "other words"))
    prepared(mixed_table, tmp_path / "whole")
    prepared(mixed_table, tmp_path / "resumed")
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")
    assert "other words" in open_shards(tmp_path / "resumed").read("train")["text"].to_pylist()

    killed_at(mixed_table.num_items - 1, mixed_table, tmp_path / "shorter")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:30]))
    prepared(mixed_table, tmp_path / "shorter")
    assert sum(counts.rows for counts in open_shards(tmp_path / "shorter").manifest.splits.values()) < 30


def test_what_another_preparation_left_is_not_mixed_in(
    files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None
):
    killed_at(mixed_table.num_items - 1, mixed_table, tmp_path / "set")
    prepare("own_table", mixed_table.path, tmp_path / "set", seed=0, options=mixed_table.options, size=32)
    prepare("own_table", mixed_table.path, tmp_path / "whole", seed=0, options=mixed_table.options, size=32)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_an_exception_keeps_finished_shards_and_nothing_else(
    files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
):
    add = SetWriter.add

    def failing(after: int) -> None:
        left = after

        def counting(self, item) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            add(self, item)

        monkeypatch.setattr(SetWriter, "add", counting)
        with pytest.raises(KeyboardInterrupt):
            prepared(mixed_table, tmp_path / "set")
        monkeypatch.setattr(SetWriter, "add", add)

    failing(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed"]
    failing(90)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "set.partial"]
    prepared(mixed_table, tmp_path / "set")
    prepared(mixed_table, tmp_path / "whole")
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_two_at_once_make_one_set(mixed_table: Any, tmp_path: Path):
    errors: list[BaseException] = []

    def one() -> None:
        try:
            prepared(mixed_table, tmp_path / "set")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed", "set"]
    open_shards(tmp_path / "set")


def test_a_set_whose_manifest_was_deleted_is_made_anew(files_of: FilesOf, mixed_table: Any, tmp_path: Path):
    prepared(mixed_table, tmp_path / "set")
    whole = files_of(tmp_path / "set")
    (tmp_path / "set" / "manifest.json").unlink()
    prepared(mixed_table, tmp_path / "set")
    assert files_of(tmp_path / "set") == whole


def test_somebody_elses_folder_is_refused(mixed_table: Any, tmp_path: Path):
    (tmp_path / "set" / "unfinished").mkdir(parents=True)
    (tmp_path / "set" / "unfinished" / "thesis.tex").write_text("three years")
    with pytest.raises(ShardError, match="already holds something"):
        prepared(mixed_table, tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    assert not (tmp_path / "set.partial").exists()

"""Through Ray Data the same bytes come out, whatever the number of workers and wherever it was interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import data.prepare
from data._set_writer import SetWriter
from data.prepare import prepare
from data.sources._source import SourceError

pytestmark = pytest.mark.ray

FilesOf: TypeAlias = Callable[[Path], dict[str, str]]


def prepared(table: Any, folder: Path, **ways) -> None:
    prepare("own_table", table.path, folder, seed=0, options=table.options, size=48, **ways)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.prepare, "_ROWS_A_TASK", 8)


def test_ray_and_threads_make_the_same_files(
    ray_local: Any, files_of: FilesOf, mixed_table: Any, tmp_path: Path, small_shards: None, small_tasks: None
):
    prepared(mixed_table, tmp_path / "process", engine="process", workers=1)
    prepared(mixed_table, tmp_path / "one", engine="ray", workers=1)
    prepared(mixed_table, tmp_path / "two", engine="ray", workers=2)
    whole = files_of(tmp_path / "process")
    assert len([name for name in whole if name.startswith("train")]) > 2
    assert files_of(tmp_path / "one") == whole
    assert files_of(tmp_path / "two") == whole


def test_interrupted_here_and_resumed_there(
    ray_local: Any,
    files_of: FilesOf,
    mixed_table: Any,
    tmp_path: Path,
    small_shards: None,
    small_tasks: None,
    monkeypatch: pytest.MonkeyPatch,
):
    prepared(mixed_table, tmp_path / "whole", engine="process")
    add = SetWriter.add

    def interrupted_at(item: int, **ways) -> None:
        left = item

        def counting(self, item) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            add(self, item)

        monkeypatch.setattr(SetWriter, "add", counting)
        with pytest.raises(KeyboardInterrupt):
            prepared(mixed_table, tmp_path / "resumed", **ways)
        monkeypatch.setattr(SetWriter, "add", add)
        assert (tmp_path / "resumed.partial" / "train-00000.parquet").exists()

    interrupted_at(70, engine="ray", workers=2)
    interrupted_at(100, engine="process")
    prepared(mixed_table, tmp_path / "resumed", engine="ray", workers=1)
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")


def test_ray_takes_over_from_a_set_that_turns_out_large(
    ray_local: Any,
    files_of: FilesOf,
    mixed_table: Any,
    tmp_path: Path,
    small_tasks: None,
    monkeypatch: pytest.MonkeyPatch,
):
    starts: list[int] = []
    through_ray = data.prepare._through_ray

    def noted(*arguments, start: int):
        starts.append(start)
        return through_ray(*arguments, start=start)

    monkeypatch.setattr(data.prepare, "_through_ray", noted)
    prepared(mixed_table, tmp_path / "small")
    assert starts == []
    monkeypatch.setattr(data.prepare, "LARGE", 30)
    prepared(mixed_table, tmp_path / "large")
    assert starts == [30]
    assert files_of(tmp_path / "small") == files_of(tmp_path / "large")


def test_mistakes_read_as_they_do_without_ray(ray_local: Any, tmp_path: Path):
    (tmp_path / "t.csv").write_text("image,text\na.jpg,x\n")
    with pytest.raises(SourceError, match="has no column 'words'; it has: image, text"):
        prepare("own_table", str(tmp_path / "t.csv"), tmp_path / "set", seed=0, engine="ray",
                options={"label": "", "text": "words"})  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]

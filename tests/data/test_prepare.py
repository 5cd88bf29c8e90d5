"""Preparing twice is preparing once."""

from pathlib import Path

import pytest

from data.manifest import ShardError
from data.prepare import prepare
from data.shards import open_shards
from data.sources._source import SourceError

SMALL = {"train_images": 12, "validation_images": 3, "test_images": 3}


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_set_as_asked_for_is_kept(tmp_path: Path):
    first = prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL)
    before = modified(tmp_path / "set")
    assert prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL) == first
    assert modified(tmp_path / "set") == before
    assert first.source["options"]["grid"] == 4  # defaults are on record too
    assert open_shards(tmp_path / "set").manifest == first


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [(2, SMALL, "seed 1, asked for 2"), (1, SMALL | {"grid": 3}, "with options")],
)
def test_another_set_is_refused_not_overwritten(tmp_path: Path, seed: int, options: dict, message: str):
    prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL)
    before = modified(tmp_path / "set")
    with pytest.raises(ShardError, match=message):
        prepare("scenes", "", tmp_path / "set", seed=seed, options=options)
    assert modified(tmp_path / "set") == before


def test_half_a_set_is_made_anew(tmp_path: Path):
    whole = prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL)
    (tmp_path / "set" / "manifest.json").unlink()
    (tmp_path / "set" / "test-00000.parquet").unlink()
    assert prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL) == whole
    open_shards(tmp_path / "set")


def test_a_damaged_set_says_how_to_mend(tmp_path: Path):
    prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL)
    (tmp_path / "set" / "test-00000.parquet").write_bytes(b"")
    with pytest.raises(ShardError, match=r"delete .* and run again"):
        prepare("scenes", "", tmp_path / "set", seed=1, options=SMALL)


def test_files_of_somebody_else_are_not_deleted(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(ShardError, match="already holds something"):
        prepare("scenes", "", tmp_path, seed=1, options=SMALL)
    assert (tmp_path / "thesis.tex").exists()


def test_unknown_source_option_and_needless_path(tmp_path: Path):
    with pytest.raises(SourceError, match=r"no source named 'flickr'; known: .*easy_vqa"):
        prepare("flickr", "", tmp_path / "set", seed=1)
    with pytest.raises(SourceError, match="source scenes has no option 'gird'; known: train_images"):
        prepare("scenes", "", tmp_path / "set", seed=1, options={"gird": 3})
    with pytest.raises(SourceError, match="takes no path; got '/data'"):
        prepare("scenes", "/data", tmp_path / "set", seed=1)

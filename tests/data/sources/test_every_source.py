"""What every source keeps to. A new file in data/sources is tested here before anyone writes a test for it.

A source that reads a folder is given one by a function of its name in conftest.py.
"""

import dataclasses
import pickle
from collections import Counter
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import pytest

from data.images import decode
from data.integrity import check_source
from data.row import DROP_REASONS, TEXT_COLUMNS, Dropped, Row, read_image
from data.shards import open_shards, write_shards
from data.sources._source import Source, SourceError, load_source, source_names

WITH_FILES = [name for name in source_names() if load_source(name).needs_path]


@pytest.fixture(params=source_names())
def source(request: pytest.FixtureRequest) -> Source:
    return load_source(request.param)


@pytest.fixture
def given(source: Source, make_sample: Callable, tmp_path: Path) -> tuple[str, dict]:
    """A path for the source, and options."""
    if not source.needs_path:
        return "", {}
    sample = make_sample(source.name, tmp_path / "set")
    return sample.path, sample.options


def some_rows(source: Source, given: tuple[str, dict], count: int = 300) -> list[Row | Dropped]:
    path, options = given
    return list(islice(source.rows(path, seed=0, options=source.options(options)), count))


def test_rows_are_complete_and_repeatable(source: Source, given: tuple[str, dict]):
    found = some_rows(source, given)
    assert found == some_rows(source, given)
    rows = [row for row in found if isinstance(row, Row)]
    assert rows
    assert len({row.id for row in rows}) == len(rows)
    columns = source.labels(given[0], source.options(given[1]))
    for row in rows:
        assert row.split in ("train", "validation", "test")
        assert row.group
        assert set(row.labels) == {column.name for column in columns}
        assert set(row.extra) == set(rows[0].extra)
        for column in columns:
            value = row.labels[column.name]
            assert isinstance(value, str if column.kind == "class" else tuple) or row.split == "test"
            assert set((value,) if isinstance(value, str) else value or ()) <= set(column.class_names)
        assert bool(row.embedding) or decode(read_image(row.image)).shape[0] == 3
    for name in TEXT_COLUMNS:
        assert len({bool(getattr(row, name)) for row in rows if row.split != "test"}) <= 1


def test_rows_of_a_picture_stand_together(source: Source, given: tuple[str, dict]):
    groups = [row.group for row in some_rows(source, given) if isinstance(row, Row)]
    changes = 1 + sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups))


def test_rows_travel_to_workers_and_into_shards(source: Source, given: tuple[str, dict], tmp_path: Path):
    rows = pickle.loads(pickle.dumps(some_rows(source, given)))
    labels = source.labels(given[0], source.options(given[1]))
    manifest = write_shards(rows, tmp_path / "shards", source={}, labels=labels)
    assert sum(manifest.dropped.values()) == sum(isinstance(row, Dropped) for row in rows)
    shards = open_shards(tmp_path / "shards")
    ids = [row_id for split in manifest.splits for row_id in shards.read(split, ["id"])["id"].to_pylist()]
    assert sorted(ids) == sorted(row.id for row in rows if isinstance(row, Row))


def test_options_are_a_frozen_dataclass_with_defaults(source: Source):
    options = source.options({})
    assert dataclasses.is_dataclass(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(options)[0].name, 1)
    with pytest.raises(SourceError, match="has no option 'nonsense'; known: "):
        source.options({"nonsense": 1})


@pytest.mark.parametrize("name", WITH_FILES)
def test_every_broken_row_is_dropped_and_named(name: str, make_sample: Callable, tmp_path: Path):
    whole = make_sample(name, tmp_path / "whole" / "set")
    broken = make_sample(name, tmp_path / "broken" / "set", broken=True)
    assert broken.kept == whole.kept
    for sample in (whole, broken):
        source = load_source(name)
        report = check_source(
            source, sample.path, seed=0, options=source.options(sample.options), num_threads=2
        )
        assert {split: found.rows for split, found in report.splits.items() if found.rows} == sample.kept
        assert sum((Counter(found.dropped) for found in report.splits.values()), Counter()) == sample.dropped
        assert set(report.dropped_examples) == set(sample.dropped) <= set(DROP_REASONS)
        assert all(all(examples) for examples in report.dropped_examples.values())
        assert report.problems == ()


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_path_that_is_not_there_is_one_line(name: str, tmp_path: Path):
    source = load_source(name)
    with pytest.raises(SourceError, match="nowhere"):
        list(source.rows(str(tmp_path / "nowhere"), seed=0, options=source.options({})))
    with pytest.raises(SourceError):
        list(source.rows(str(tmp_path), seed=0, options=source.options({})))

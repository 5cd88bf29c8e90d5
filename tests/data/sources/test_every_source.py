"""What every source keeps to. A new file in data/sources is tested here before anyone writes a test for it.

A source that reads a folder is given one by a function of its name in SAMPLES.
"""

import dataclasses
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import pytest

from data.images import decode
from data.row import Row, read_image
from data.sources._source import Source, SourceError, load_source, source_names

SAMPLES: dict[str, Callable[[Path], str]] = {}
"""{source: a function that makes a small dataset of its form in a folder, and gives back the path}"""


def some_rows(source: Source, folder: Path, seed: int = 0, count: int = 300) -> list[Row]:
    path = SAMPLES[source.name](folder) if source.needs_path else ""
    given = islice(source.rows(path, seed=seed, options=source.options({})), count)
    return [row for row in given if isinstance(row, Row)]


@pytest.fixture(params=source_names())
def source(request: pytest.FixtureRequest) -> Source:
    return load_source(request.param)


def test_rows_are_complete_and_repeatable(source: Source, tmp_path: Path):
    rows = some_rows(source, tmp_path)
    assert rows
    assert rows == some_rows(source, tmp_path)
    assert len({row.id for row in rows}) == len(rows)
    classes = {column.name: column.class_names for column in source.labels("", source.options({}))}
    for row in rows:
        assert row.caption
        assert row.text
        assert row.split in ("train", "validation", "test")
        assert set(row.labels) == set(classes)
        assert all(value in classes[name] for name, value in row.labels.items())
    assert decode(read_image(rows[0].image)).shape[0] == 3


def test_rows_of_a_picture_stand_together(source: Source, tmp_path: Path):
    groups = [row.group for row in some_rows(source, tmp_path)]
    changes = 1 + sum(a != b for a, b in pairwise(groups))
    assert changes == len(set(groups))


def test_options_are_a_frozen_dataclass_with_defaults(source: Source):
    options = source.options({})
    assert dataclasses.is_dataclass(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(options)[0].name, 1)
    with pytest.raises(SourceError, match="has no option 'nonsense'; known: "):
        source.options({"nonsense": 1})

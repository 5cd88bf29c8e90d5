"""A row of a dataset, and the columns it takes in a shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from data.manifest import LabelColumn, ShardError

TEXT_COLUMNS = ("caption", "text")
FIXED_COLUMNS = ("id", "split", "group", "image", *TEXT_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture with one text, as a source gives it."""

    id: str
    """Unique in the set, and the same every time the source is read."""
    split: str
    group: str
    """What must not be torn apart: splits share no group. Usually the picture's own name."""
    image: bytes
    """Encoded as stored on disk (JPEG, PNG, …)."""
    caption: str
    """A statement about the picture, for pretraining."""
    text: str
    """What a task reads, e.g. a question."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """{label column: class name}"""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Columns for reporting; every row of a set has the same ones."""


def arrow_schema(labels: Sequence[LabelColumn], extra_columns: Sequence[str]) -> pa.Schema:
    """The columns of a shard: the fixed ones, an integer for each label, a string for each extra column."""
    columns = [(name, pa.binary() if name == "image" else pa.string()) for name in FIXED_COLUMNS]
    columns += [(column.name, pa.int32()) for column in labels]
    columns += [(name, pa.string()) for name in extra_columns]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def check_column_names(labels: Sequence[LabelColumn], extra_columns: Sequence[str]) -> None:
    """Raises ShardError when two columns would have one name."""
    names = [*FIXED_COLUMNS, *(column.name for column in labels), *extra_columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ShardError(
            f"columns named twice: {', '.join(twice)}; label and extra columns need names of their own"
        )

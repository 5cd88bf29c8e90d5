"""The contract of a source, and how one is found: by its file name in this folder.

A source is a module with

    OPTIONS                               a frozen keyword-only dataclass; its defaults are the dataset as published
    rows(path, *, seed, options)          an iterator of Row, and of Dropped for a row that cannot be used; same
                                          arguments, same rows in the same order; those of one group stand together
    labels(path, options)                 the label columns, a tuple of LabelColumn
    NEEDS_PATH                            whether `path` must name the dataset's folder (else it must be "")
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import data.sources
from data.manifest import LabelColumn
from data.row import Dropped, Row


class SourceError(ValueError):
    """A source that does not exist, or cannot be read as asked; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A dataset that `prepare` can turn into shards."""

    name: str
    rows: Callable[..., Iterator[Row | Dropped]]
    labels: Callable[[str, Any], tuple[LabelColumn, ...]]
    options_class: type
    needs_path: bool

    def options(self, values: Mapping[str, Any]) -> Any:
        """The options with these values put in. Raises SourceError for an unknown name or an impossible value."""
        known = [field.name for field in dataclasses.fields(self.options_class)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise SourceError(
                f"source {self.name} has no option {unknown[0]!r}; known: {', '.join(known) or 'none'}"
            )
        return self.options_class(**values)


def source_names() -> list[str]:
    """Every source, by name."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(data.sources.__path__)
        if not module.name.startswith("_")
    )


def load_source(name: str) -> Source:
    """The source of that name. Raises SourceError listing the known ones."""
    if name not in source_names():
        raise SourceError(f"no source named {name!r}; known: {', '.join(source_names())}")
    module = importlib.import_module(f"data.sources.{name}")
    return Source(name, module.rows, module.labels, module.OPTIONS, module.NEEDS_PATH)

"""A named dataset -> a set of shards on disk, once: what is there already, whole and as asked for, is left alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.manifest import MANIFEST_NAME, Manifest, ShardError
from data.shards import is_half_written, open_shards, write_shards
from data.sources._source import SourceError, load_source

log = logging.getLogger(__name__)


def prepare(
    source_name: str,
    path: str,
    folder: str | Path,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of `source_name` as shards at `folder`, written unless they are there.

    `path` is the dataset's own folder ("" for sources that need none), `options` values of the source's OPTIONS. A
    set that was made from the same source, path, seed and options is checked and kept; one half there is made anew.
    Raises SourceError for an unknown source or option, ShardError for a folder that holds another set, anything else,
    or damaged files.
    """
    source = load_source(source_name)
    chosen = source.options(options or {})
    if source.needs_path != bool(path):
        need = "needs the path of its folder" if source.needs_path else f"takes no path; got {path!r}"
        raise SourceError(f"source {source_name} {need}")
    asked = {"name": source_name, "path": path, "seed": seed, "options": dataclasses.asdict(chosen)}
    asked = json.loads(json.dumps(asked))
    if (Path(folder) / MANIFEST_NAME).exists():
        return _existing(Path(folder), asked)
    if is_half_written(folder):
        log.warning("%s: half-written shards, making them anew", folder)
        shutil.rmtree(folder)
    started = time.monotonic()
    try:
        manifest = write_shards(
            source.rows(path, seed=seed, options=chosen),
            folder,
            source=asked,
            labels=source.labels(path, chosen),
        )
    except (OSError, ShardError):
        if not (Path(folder) / MANIFEST_NAME).exists():
            raise
        return _existing(Path(folder), asked)  # another process finished the same set first
    rows = sum(counts.rows for counts in manifest.splits.values())
    log.info("%s: %d rows of %s in %.1f s", folder, rows, source_name, time.monotonic() - started)
    return manifest


def _existing(folder: Path, asked: Mapping[str, Any]) -> Manifest:
    manifest = open_shards(folder).manifest
    for key in ("name", "path", "seed", "options"):
        if manifest.source.get(key) != asked[key]:
            raise ShardError(
                f"{folder} holds shards with {key} {manifest.source.get(key)!r}, asked for {asked[key]!r}; "
                f"delete {folder} and run again, or choose another folder"
            )
    return manifest

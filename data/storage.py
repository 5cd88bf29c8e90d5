"""Where shards lie: a folder on disk, or s3://…, gs://…, abfs://… through pyarrow's own file systems.

    place = open_storage("s3://bucket/sets/memes?region=eu-central-1")
    place.write("manifest.json", b"{}")

A store without a `region` asks Amazon where the bucket is. One that is not Amazon's is named in the address:
`s3://bucket/sets?endpoint_override=http://127.0.0.1:9000&scheme=http&region=us-east-1`. Keys come from the environment
(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS) or from the machine's own role.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class StorageError(ValueError):
    """A place that cannot be used as asked; the message names it and what the store answered."""


@dataclass(frozen=True)
class Storage:
    """A folder in some file system. Names are of files in it, or with `/` in a folder below."""

    filesystem: fs.FileSystem
    root: str
    """The folder's path in that file system."""
    label: str
    """What the folder is called in messages: without keys or questions to the store."""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk, where renaming is free and files can be locked."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of a file, for use with `filesystem`."""
        return f"{self.root.rstrip('/')}/{name}"

    def below(self, name: str) -> Storage:
        """A folder in this one."""
        return replace(self, root=self.path(name), label=f"{self.label}/{name}")

    def names(self) -> list[str]:
        """Files and folders in it, sorted; none where there is no such folder."""
        with self._naming("list"):
            found = self.filesystem.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return sorted(info.base_name for info in found if info.base_name)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when it is not there."""
        with self._naming("read"):
            info = self.filesystem.get_file_info(self.path(name))
        return info.size if info.type == fs.FileType.File else None

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError when it is not there."""
        if self.size(name) is None:
            raise FileNotFoundError(f"{self.label}/{name}")
        with self._naming("read"), self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def sha256(self, name: str) -> str:
        """Hexadecimal sha256 of a file, read in pieces."""
        digest = hashlib.sha256()
        with self._naming("read"), self.filesystem.open_input_stream(self.path(name)) as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def write(self, name: str, content: bytes) -> None:
        """Puts a file there, whole or not at all."""
        with self.writing(name) as stream:
            stream.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[CountingStream]:
        """A stream whose file appears when the block ends.

        On disk only when it ends well. An object store shows a file only once it is closed, but that also when the block
        fails, with what was written so far: write what says that others are whole last, and in one piece.
        """
        path = self.path(name)
        with self._naming("write"):
            if not self.is_local:
                with self.filesystem.open_output_stream(path) as stream:
                    yield CountingStream(stream)
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            unfinished = f"{path}.unfinished"
            with open(unfinished, "wb") as file:
                yield CountingStream(file)
            os.replace(unfinished, path)

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._naming("delete"), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Removes a folder and what is in it, if it is there."""
        with self._naming("delete"), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path(name))

    @contextmanager
    def _naming(self, verb: str) -> Iterator[None]:
        """Gives errors of a remote store, which name an AWS call and no place, one line that does."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if self.is_local or isinstance(error, FileNotFoundError):
                raise
            raise StorageError(f"cannot {verb} {self.label}: {' '.join(str(error).split())}") from error


class CountingStream:
    """A file that is written from front to back, and whose length and sha256 are known at the end without reading it."""

    def __init__(self, stream: IO[bytes] | pa.NativeFile) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what was written so far."""
        return self._digest.hexdigest()

    def write(self, content: Any) -> int:
        view = memoryview(content)
        self._digest.update(view)
        self._stream.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._stream.close()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def is_address(place: str | Path) -> bool:
    """Whether it names a store rather than a path on disk."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def open_storage(place: str | Path) -> Storage:
    """The folder at a path or an address; it need not exist. Raises StorageError for an address nobody understands."""
    if not is_address(place):
        root = os.path.abspath(os.path.expanduser(place))
        return Storage(fs.LocalFileSystem(), root, root)
    address = str(place)
    try:
        filesystem, root = fs.FileSystem.from_uri(address)
    except (OSError, ValueError, pa.ArrowException) as error:
        why = " ".join(str(error).split()).replace(address, _label(address))
        raise StorageError(f"{_label(address)} is no place we can write to: {why}") from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return Storage(filesystem, root, root)
    if not root.strip("/"):
        raise StorageError(f"{_label(address)} names no bucket")
    return Storage(filesystem, root.rstrip("/"), _label(address))


def _label(address: str) -> str:
    """Without user:password@ and ?question, either of which may hold keys."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")

"""A picture named by a table: found inside the dataset's folder only, read when wanted, never without bound."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from functools import lru_cache

from data.row import UnusableError

MAX_IMAGE_BYTES = 64 << 20
"""The largest picture file that is read; a scan of 64 megapixels is about 30 MB as JPEG."""


@dataclass(frozen=True)
class ImageFile:
    """A StoredImage on disk."""

    path: str
    """Absolute, without `..`."""
    root: str = ""
    """The real path must lie below this folder, whatever links there are; "" for no such limit."""

    def read(self) -> bytes:
        """The bytes of the file. Raises UnusableError with the reason."""
        if self.root and not _is_below(os.path.realpath(self.path), _real_root(self.root)):
            raise UnusableError(
                "path_escape",
                f"{self.path} links to a place outside {self.root}; allow_outside=true allows it",
            )
        try:
            # A pipe or a device that calls itself picture.jpg would block for ever or never end.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise UnusableError("missing_file", f"no file {self.path}") from None
        except (OSError, ValueError) as error:
            raise UnusableError("unreadable_file", f"{self.path}: {error}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UnusableError("unreadable_file", f"{self.path} is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise UnusableError("unreadable_file", f"{self.path}: {error}") from None
        finally:
            os.close(descriptor)
        if not content:
            raise UnusableError("empty_file", f"{self.path} has no bytes")
        if len(content) > MAX_IMAGE_BYTES:
            raise UnusableError("image_too_large", f"{self.path} has more than {MAX_IMAGE_BYTES >> 20} MiB")
        return content


def image_file(folder: str | os.PathLike[str], name: str, *, allow_outside: bool = False) -> ImageFile:
    """The picture that a table of the dataset at `folder` calls `name` (a path from that folder, or an absolute one).

    Raises UnusableError: "path_escape" for a name that leaves the folder, unless `allow_outside`; "bad_row" for one that
    no file can have.
    """
    if not name.strip() or "\0" in name:
        raise UnusableError("bad_row", f"{name!r} names no picture")
    if "://" in name[:16]:
        raise UnusableError(
            "missing_file", f"{name} is an address; fetch it with `crosstie data download` first"
        )
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, name))
    if allow_outside:
        return ImageFile(path)
    if not _is_below(path, root):
        raise UnusableError("path_escape", f"{name} is outside {root}; allow_outside=true allows it")
    return ImageFile(path, root)


@lru_cache(maxsize=64)
def _real_root(root: str) -> str:
    return os.path.realpath(root)


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip(os.sep) + os.sep)

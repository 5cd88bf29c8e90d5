"""A picture file is read inside its folder only, and never without bound."""

import os
from pathlib import Path

import pytest

from data.row import UnusableError
from data.sources import _image_file
from data.sources._image_file import image_file


def reason(call) -> str:
    with pytest.raises(UnusableError) as error:
        call()
    return error.value.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set" / "img").mkdir(parents=True)
    (tmp_path / "set" / "img" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "set2").mkdir()
    (tmp_path / "set2" / "b.jpg").write_bytes(b"secret")
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["img/a.jpg", "./img//a.jpg", "img/../img/a.jpg"])
def test_inside(folder: Path, name: str):
    assert image_file(folder, name).read() == b"picture"
    assert image_file(folder, str(folder / name)).read() == b"picture"


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "img/../../secret.jpg", "/etc/hostname", "../set2/b.jpg", "..", ".", "/"]
)
def test_outside(folder: Path, name: str):
    assert reason(lambda: image_file(folder, name)) == "path_escape"


def test_outside_when_allowed(folder: Path):
    assert image_file(folder, "../secret.jpg", allow_outside=True).read() == b"secret"


def test_links_are_followed_inside_only(folder: Path):
    (folder / "img" / "in.jpg").symlink_to("a.jpg")
    (folder / "img" / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "more").symlink_to(folder.parent / "set2")
    assert image_file(folder, "img/in.jpg").read() == b"picture"
    for name in ("img/out.jpg", "more/b.jpg"):
        assert reason(image_file(folder, name).read) == "path_escape"
        assert image_file(folder, name, allow_outside=True).read() == b"secret"


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(folder)
    assert image_file(tmp_path / "link", "img/a.jpg").read() == b"picture"


def test_what_is_no_file(folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    assert reason(image_file(folder, "img").read) == "unreadable_file"
    assert reason(image_file(folder, "pipe.jpg").read) == "unreadable_file"
    assert reason(image_file(folder, "loop.jpg").read) == "unreadable_file"
    assert reason(image_file(folder, "no.jpg").read) == "missing_file"
    assert reason(image_file(folder, "img/a.jpg/b.jpg").read) == "missing_file"
    assert reason(image_file(folder, "x" * 5000).read) == "unreadable_file"
    assert reason(image_file("/dev", "zero").read) == "unreadable_file"


def test_names_of_nothing(folder: Path):
    assert reason(lambda: image_file(folder, " ")) == "bad_row"
    assert reason(lambda: image_file(folder, "a\0.jpg")) == "bad_row"
    assert reason(lambda: image_file(folder, "https://example.org/a.jpg")) == "missing_file"


def test_size_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_image_file, "MAX_IMAGE_BYTES", 6)
    assert reason(image_file(folder, "img/a.jpg").read) == "image_too_large"
    (folder / "empty.jpg").touch()
    assert reason(image_file(folder, "empty.jpg").read) == "empty_file"

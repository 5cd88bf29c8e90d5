"""A folder on disk and one on an object store are used alike."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.storage import Storage, StorageError, is_address, open_storage


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return open_storage(tmp_path / "folder")
    make: Callable[[str], str] = request.getfixturevalue("s3_address")
    return open_storage(make("folder"))


def test_files_come_and_go(place: Storage):
    assert place.names() == []
    assert place.size("a.txt") is None
    place.write("a.txt", b"one")
    place.write("below/b.txt", b"two")
    assert place.names() == ["a.txt", "below"]
    assert place.below("below").names() == ["b.txt"]
    assert (place.size("a.txt"), place.size("below")) == (3, None)
    assert place.read("below/b.txt") == b"two"
    place.write("a.txt", b"again")
    assert place.read("a.txt") == b"again"
    place.delete("a.txt")
    place.delete("a.txt")
    place.delete_folder("below")
    place.delete_folder("below")
    assert place.names() == []
    with pytest.raises(FileNotFoundError):
        place.read("a.txt")


def test_a_stream_knows_its_length_and_checksum(place: Storage):
    with place.writing("large.bin") as stream:
        for piece in range(6):
            stream.write(bytes([piece]) * 1_000_000)
    assert stream.bytes == place.size("large.bin") == 6_000_000
    assert stream.sha256 == place.sha256("large.bin")


def test_a_file_whose_writing_failed_is_not_there(tmp_path: Path):
    place = open_storage(tmp_path)

    def fail() -> None:
        with place.writing("half.txt") as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert place.size("half.txt") is None


def test_addresses_and_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert is_address("s3://bucket/x")
    assert not is_address("C:/x")
    assert not is_address(tmp_path)
    assert open_storage(f"file://{tmp_path}/x") == open_storage(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    assert open_storage("x").root == str(tmp_path / "x")


def test_messages_hold_no_keys():
    place = open_storage("s3://key:secret@bucket/x/?region=us-east-1&endpoint_override=http://127.0.0.1:9")
    assert place.label == "s3://bucket/x"
    with pytest.raises(StorageError, match="ftp://host/x is no place we can write to") as caught:
        open_storage("ftp://me:secret@host/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(StorageError, match="names no bucket"):
        open_storage("s3://?region=us-east-1")


def test_a_bucket_that_is_not_there_is_named(s3_address: Callable[[str], str]):
    address = s3_address("x").replace("s3://sets/", "s3://nowhere/")
    with pytest.raises(StorageError, match=r"cannot write s3://nowhere/x: .*NO_SUCH_BUCKET"):
        open_storage(address).write("a", b"")

"""MM-IMDB in both of its forms."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images import decode
from data.row import Row, read_image
from data.sources import _mm_imdb_hdf5
from data.sources._source import SourceError
from data.sources.mm_imdb import GENRES, HDF5_NAME, MmImdbOptions, labels, rows

NAMES = tuple(reversed(GENRES))  # the file says which column is which
POSTERS = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 6), dtype=np.uint8)


def read(path: Path, **options) -> list[Row]:
    return [row for row in rows(str(path), seed=0, options=MmImdbOptions(**options)) if isinstance(row, Row)]


def as_make_dataset_stores(poster_CHW: np.ndarray) -> np.ndarray:
    """The last lines of VGGClassifier.resize_and_crop_image, and the int32 dataset it is written to."""
    image = np.asarray(poster_CHW.transpose(1, 2, 0), dtype="float32")[..., [2, 1, 0]]
    image[:, :, 0] -= 103.939
    image[:, :, 1] -= 116.779
    image[:, :, 2] -= 123.68
    return image.transpose(2, 0, 1)


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    """Four films as make_dataset.py writes them: two to train, one each to validate and to test."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / HDF5_NAME
    with h5py.File(path, "w") as file:
        file["imdb_ids"] = np.array(["0000001", "0000002", "0000003", "0000004"], dtype="S7")
        images = file.create_dataset("images", POSTERS.shape, dtype="int32")
        genres = np.zeros((4, 23), dtype="int32")
        for i, poster in enumerate(POSTERS):
            images[i] = as_make_dataset_stores(poster)
            genres[i, [i, 22]] = 1
        file["genres"] = genres
        file["genres"].attrs["target_names"] = json.dumps(NAMES)
        words = file.create_dataset("sequences", (4,), dtype=h5py.special_dtype(vlen=np.dtype("int32")))
        for i in range(4):
            words[i] = np.array([1, 2 + i], dtype="int32")
        kinds: list[Any] = [("split", "S5"), ("source", "S8"), ("start", "i8"), ("stop", "i8")]
        kinds += [("indices", h5py.special_dtype(ref=h5py.Reference)), ("available", "?"), ("comment", "S1")]
        ranges = {b"train": (0, 2), b"dev": (2, 3), b"test": (3, 4)}
        table = [
            (split, source, start, stop, h5py.Reference(), True, b".")
            for split, (start, stop) in ranges.items()
            for source in (b"genres", b"images")
        ]
        file.attrs["split"] = np.array(table, dtype=np.dtype(kinds))
    (tmp_path / "vocabulary.txt").write_text("_UNK_\nthe\none\ntwo\nthree\nfour\n")
    return path


def test_the_longest_plot_and_the_known_genres(make_sample: Callable, tmp_path: Path):
    make_sample("mm_imdb", tmp_path / "set")
    row = next(row for row in read(tmp_path / "set") if row.id == "0000001")
    assert row.text == row.caption == "the longest plot 1"
    assert row.labels == {"genre": ("Drama", "Film-Noir")}
    (column,) = labels("", MmImdbOptions())
    assert (column.kind, column.num_classes) == ("multilabel", 23)


def test_hdf5_with_a_vocabulary(hdf5: Path):
    found = read(hdf5, vocabulary=str(hdf5.parent / "vocabulary.txt"))
    assert [(row.id, row.split) for row in found] == [
        ("0000004", "test"), ("0000003", "validation"), ("0000001", "train"), ("0000002", "train"),
    ]  # fmt: skip
    assert found[2].text == "the one"
    assert found[2].labels["genre"] == (NAMES[0], NAMES[22])


def test_posters_of_hdf5_get_their_colours_back(hdf5: Path):
    found = read(hdf5.parent, vocabulary=str(hdf5.parent / "vocabulary.txt"))
    for row in found:
        poster = POSTERS[int(row.id) - 1].astype(int)
        difference = np.abs(decode(read_image(row.image)).astype(int) - poster)
        # of the levels just around the mean one cannot be told from the other
        assert difference.max() <= 1
        assert (
            difference[np.abs(poster - np.array([123.68, 116.779, 103.939])[:, None, None]) > 1] == 0
        ).all()


def test_every_level_of_every_channel_comes_back():
    levels = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))
    back = _mm_imdb_hdf5._without_vgg_means(as_make_dataset_stores(levels).astype("int32"))
    assert (back != levels).sum() == 3  # one level of each channel
    assert np.abs(back.astype(int) - levels).max() == 1


def test_hdf5_takes_plots_from_beside_it(hdf5: Path):
    with pytest.raises(
        SourceError, match=r"plots as numbers: put dataset/<id>.json beside it, or give vocabulary=FILE"
    ):
        read(hdf5)
    (hdf5.parent / "dataset").mkdir()
    (hdf5.parent / "dataset" / "0000003.json").write_text(json.dumps({"plot": ["told in full."]}))
    assert [(row.id, row.text) for row in read(hdf5)] == [("0000003", "told in full.")]


def test_hdf5_that_points_to_other_files_is_refused(hdf5: Path, tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(b"0000009" * 4)
    with h5py.File(hdf5, "r+") as file:
        del file["imdb_ids"]
        file.create_dataset("imdb_ids", (4,), dtype="S7", external=[(str(tmp_path / "secret"), 0, 28)])
    _mm_imdb_hdf5._opened.cache_clear()
    with pytest.raises(SourceError, match="imdb_ids points to another file, which is not followed"):
        read(hdf5, vocabulary=str(hdf5.parent / "vocabulary.txt"))


def test_a_damaged_hdf5_is_one_line(tmp_path: Path):
    pytest.importorskip("h5py")
    (tmp_path / HDF5_NAME).write_bytes(b"not hdf5")
    with pytest.raises(SourceError, match="is not an HDF5 file, or is damaged"):
        read(tmp_path)


def test_without_h5py_the_message_says_what_to_install(hdf5: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    _mm_imdb_hdf5._opened.cache_clear()
    with pytest.raises(SourceError, match="pip install h5py"):
        read(hdf5)


def test_a_split_file_of_another_form(tmp_path: Path):
    (tmp_path / "split.json").write_text('{"train": [1]}')
    with pytest.raises(SourceError, match="lists of ids named train, dev and test"):
        read(tmp_path)
    (tmp_path / "split.json").write_text("[")
    with pytest.raises(SourceError, match="is not JSON"):
        read(tmp_path)


def test_a_poster_is_a_poster(make_sample: Callable, tmp_path: Path):
    make_sample("mm_imdb", tmp_path / "set")
    row = read(tmp_path / "set")[0]
    with Image.open(tmp_path / "set" / "dataset" / f"{row.id}.jpeg") as picture:
        assert decode(read_image(row.image)).shape == (3, picture.height, picture.width)

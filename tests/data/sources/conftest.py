"""A small dataset of every source's format, written as its authors publish it; on demand with every kind of broken row."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.images import encode


@dataclass
class Sample:
    """A dataset on disk and what is in it."""

    path: str
    kept: dict[str, int]
    """{split: rows}"""
    dropped: Counter[str] = field(default_factory=Counter)
    """{reason: rows}"""
    options: dict[str, Any] = field(default_factory=dict)


def photograph(number: int, side: int = 40) -> bytes:
    """A JPEG that looks like no other one: smooth random patches."""
    coarse = np.random.default_rng(number).integers(0, 256, (3, 5, 5), dtype=np.uint8)
    return encode(np.kron(coarse, np.ones((1, side // 5, side // 5), dtype=np.uint8)), jpeg_quality=95)


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path.name


BROKEN_PICTURES = {
    "empty": (b"", "empty_file"),
    "truncated": (photograph(900)[:400], "damaged_image"),
    "page": (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "not_an_image"),
}
"""{name: bytes of the file, why it is dropped}"""
ESCAPES = ("../secret.jpg", "/etc/hostname", "img/../../secret.jpg")


def write_broken_pictures(folder: Path, ending: str = "jpg") -> dict[str, str]:
    """{file name: why it is dropped}, one for each file it writes and one that it does not."""
    written = {
        write(folder / f"{name}.{ending}", content): why for name, (content, why) in BROKEN_PICTURES.items()
    }
    return written | {f"nowhere.{ending}": "missing_file"}


def lines_of_json(records: list[Any]) -> bytes:
    return b"".join(
        (record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n" for record in records
    )


def write_csv(path: Path, rows: list[list[str]], end: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    with path.open("ab") as stream:
        stream.write(end)


def conceptual_captions(folder: Path, broken: bool) -> Sample:
    names = [write(folder / f"{number}.jpg", photograph(number)) for number in range(5)]
    train = [["text", "filepath"], *[[f"caption, with a comma {name}", name] for name in names[:3]]]
    validation = [["text", "filepath"], *[[f"חתול 🐈 {name}", name] for name in names[3:]]]
    sample = Sample(str(folder), {"train": 3, "validation": 2})
    end = b""
    if broken:
        bad = write_broken_pictures(folder)
        train += [["a caption", name] for name in bad]
        train += [["a caption", name] for name in ESCAPES]
        train += [["  ", names[0]], ["one cell"], ["a caption", ""]]
        end = b"\xff\xfe caption,0.jpg\r\n"
        sample.dropped = Counter(bad.values()) + Counter(path_escape=3, empty_text=1, bad_row=3)
    write_csv(folder / "train.csv", train, end)
    write_csv(folder / "validation.csv", validation)
    return sample


def hateful_memes(folder: Path, broken: bool) -> Sample:
    def record(number: int, **change: Any) -> dict[str, Any]:
        name = f"img/{number:05d}.png"
        write(folder / name, photograph(number))
        return {"id": number, "img": name, "label": number % 2, "text": f"look at this {number}"} | change

    files = {
        "train": [record(number) for number in range(4)],
        "dev_seen": [record(10), record(11)],
        "dev_unseen": [record(11), record(12)],
        "test_seen": [record(20), record(21)],
        "test_unseen": [{k: v for k, v in record(22).items() if k != "label"}],
    }
    sample = Sample(str(folder), {"train": 4, "validation": 3, "test": 3}, Counter(duplicate_id=1))
    if broken:
        bad = write_broken_pictures(folder / "img", "png")
        files["train"] += [record(100 + i, img=f"img/{name}") for i, name in enumerate(bad)]
        files["train"] += [record(110 + i, img=name) for i, name in enumerate(ESCAPES)]
        files["train"] += [
            record(120, label=2), record(121, label=None), record(122, text=" "), record(0), record(20),
            b"{not json", b'["a", "list"]', b'{"id": 7, "img": "\xff"}', record(123, img=["img/00000.png"]),
            record(124, img=""), record(125, img="img/\0.png"), record(126, img="img"), b"[" * 100_000,
            record(127, img="https://example.org/1.png"),
        ]  # fmt: skip
        files["dev_seen"] += [record(130, label="")]
        sample.dropped += Counter(bad.values()) + Counter(
            path_escape=3,
            bad_label=3,
            empty_text=1,
            duplicate_id=2,
            bad_row=7,
            unreadable_file=1,
            missing_file=1,
        )
    for name, records in files.items():
        write(folder / f"{name}.jsonl", lines_of_json(records))
    return sample


def mm_imdb(folder: Path, broken: bool) -> Sample:
    def film(number: int, **change: Any) -> str:
        name = f"{number:07d}"
        record = {
            "genres": ["Drama", "Reality-TV", "Film-Noir"],
            "plot": ["short", f"the longest plot {number}"],
        }
        write(folder / "dataset" / f"{name}.json", json.dumps(record | change).encode())
        write(folder / "dataset" / f"{name}.jpeg", photograph(number))
        return name

    split = {"train": [film(1), film(2, genres=["War"])], "dev": [film(3)], "test": [film(4)]}
    sample = Sample(str(folder), {"train": 2, "validation": 1, "test": 1})
    if broken:
        for i, (content, why) in enumerate(BROKEN_PICTURES.values()):
            split["train"].append(film(100 + i))
            write(folder / "dataset" / f"{100 + i:07d}.jpeg", content)
            sample.dropped[why] += 1
        no_picture, no_record, bad_json = film(110), film(111), film(112)
        (folder / "dataset" / f"{no_picture}.jpeg").unlink()
        (folder / "dataset" / f"{no_record}.json").unlink()
        write(folder / "dataset" / f"{bad_json}.json", b"{")
        split["train"] += [
            no_picture, no_record, bad_json, film(113, genres=["Reality-TV"]), film(114, genres=None),
            film(115, plot=[""]), film(116, plot=7), film(4), film(1), "../../secret", film(117, plot=None),
        ]  # fmt: skip
        sample.dropped += Counter(
            missing_file=2, bad_row=1, bad_label=2, empty_text=3, duplicate_id=2, path_escape=1
        )
    write(folder / "split.json", json.dumps(split).encode())
    return sample


def upmc_food101(folder: Path, broken: bool) -> Sample:
    def picture(split: str, dish: str, number: int) -> str:
        return write(folder / "images" / split / dish / f"{dish}_{number}.jpg", photograph(number))

    train = [
        [picture("train", dish, i), f'{dish}, "the best" {i}', dish]
        for i, dish in enumerate(["pho", "ramen"] * 6)
    ]
    test = [[picture("test", "pho", 50), "Phở | a\nrecipe", "pho"]]
    sample = Sample(str(folder), {"train": 12, "test": 1}, options={"validation_fraction": 0.0})
    end = b""
    if broken:
        bad = write_broken_pictures(folder / "images" / "train" / "pho")
        train += [[name, "a title", "pho"] for name in bad]
        train += [["../../../secret.jpg", "a title", "pho"], [train[0][0], "a title", "tacos"]]
        train += [[train[0][0], "again", "pho"], [train[0][0], "", "pho"], ["", "a title", "pho"], ["x.jpg"]]
        end = b'unclosed.jpg,"no end,pho\n' + b"x" * 100
        sample.dropped = Counter(bad.values()) + Counter(
            path_escape=1, bad_label=1, duplicate_id=1, empty_text=1, bad_row=3
        )
    write_csv(folder / "texts" / "train_titles.csv", train, end)
    write_csv(folder / "texts" / "test_titles.csv", test)
    return sample


def vizwiz(folder: Path, broken: bool) -> Sample:
    def image(split: str, number: int, first: int) -> dict[str, Any]:
        name = f"VizWiz_{split}_{number - first:08d}.jpg"
        write(folder / split / name, photograph(number))
        return {"file_name": name, "vizwiz_url": "https://…", "id": number, "text_detected": True}

    def caption(number: int, image_id: Any, **change: Any) -> dict[str, Any]:
        said = {"caption": f"caption {number} of a thing", "image_id": image_id, "id": number}
        return said | {"is_precanned": False, "is_rejected": False, "text_detected": True} | change

    train = {
        "images": [image("train", 0, 0), image("train", 1, 0)],
        "annotations": [caption(i, i // 3) for i in range(6)] + [caption(6, 0, is_rejected=True)],
    }
    val = {
        "images": [image("val", 10, 10)],
        "annotations": [caption(20, 10), caption(21, 10, is_precanned=True)],
    }
    test = {"images": [image("test", 20, 20), image("test", 21, 20)]}
    sample = Sample(str(folder), {"train": 6, "validation": 1, "test": 2}, Counter(rejected=1, precanned=1))
    if broken:
        for i, (name, why) in enumerate(write_broken_pictures(folder / "train").items()):
            train["images"].append({"file_name": name, "id": 100 + i})
            train["annotations"].append(caption(100 + i, 100 + i))
            sample.dropped[why] += 1
        train["images"] += [
            {"file_name": "../secret.jpg", "id": 110}, {"file_name": 7, "id": 111}, {"id": "twelve"},
            image("train", 113, 0), train["images"][0],
        ]  # fmt: skip
        train["annotations"] += [
            caption(110, 110), caption(111, 111), caption(113, 113, is_rejected=True), caption(114, 0, caption=" "),
            caption(115, 999), caption(116, None), caption(117, [0]), caption(118, 0, caption=3),
        ]  # fmt: skip
        sample.dropped += Counter(path_escape=1, bad_row=4, rejected=1, no_caption=3, empty_text=2)
    for split, document in (("train", train), ("val", val), ("test", test)):
        write(folder / "annotations" / f"{split}.json", json.dumps({"info": {}, **document}).encode())
    return sample


def image_folder(folder: Path, broken: bool) -> Sample:
    for i, place in enumerate(
        ("train/n01/a.JPEG", "train/n01/b.JPEG", "train/n02/images/c.JPEG", "val/n01/d.JPEG")
    ):
        write(folder / place, photograph(i))
    write(folder / "test/e.JPEG", photograph(9))
    write(folder / "words.txt", b"n01\ttench, Tinca tinca\nn02\tgoldfish\nn03\tnever seen\n")
    write(folder / "train/n01/.DS_Store", b"x")
    sample = Sample(str(folder), {"train": 3, "validation": 1, "test": 1})
    if broken:
        bad = write_broken_pictures(folder / "train" / "n02")
        sample.dropped = Counter(bad.values()) - Counter(missing_file=1)  # no table names it
        (folder / "train/n02/dead.JPEG").symlink_to(folder / "nowhere.JPEG")
        (folder / "train/n02/out.JPEG").symlink_to("/etc/hostname")
        (folder / "train/n02/circle").symlink_to(folder / "train")
        os.mkfifo(folder / "train/n02/pipe.JPEG")
        sample.dropped += Counter(missing_file=1, path_escape=1, unreadable_file=2)
    return sample


def embedding_store(folder: Path, broken: bool) -> Sample:
    def shard(part: str, number: int, vectors: np.ndarray, captions: list[Any]) -> Path:
        path = folder / part / "img_emb" / f"img_emb_{number:04d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
        told = {
            "url": [f"https://{i}" for i in range(len(captions))],
            "caption": pa.array(captions, pa.string()),
        }
        (folder / part / "metadata").mkdir(exist_ok=True)
        pq.write_table(
            pa.table(told), folder / part / "metadata" / f"metadata_{number:04d}.parquet", row_group_size=2
        )
        return path

    def vectors(rows: int) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(rows, 6)).astype(np.float16)

    shard("en", 0, vectors(5), [f"caption {i}" for i in range(5)])
    shard("multi", 3, vectors(2).astype(np.float32), ["un chat", "一只猫"])
    sample = Sample(str(folder), {"train": 7})
    if broken:
        spoiled = vectors(4)
        spoiled[0], spoiled[1, 2] = 0, np.nan
        shard("en", 1, spoiled, ["zero", "nan", "", None])
        shard("en", 2, vectors(3), ["fewer", "captions"])
        path = shard("en", 4, vectors(2), ["cut", "short"])
        path.write_bytes(path.read_bytes()[:-5])
        path = shard("en", 5, vectors(2), ["a", "pickle"])
        np.save(path, np.array([{"run": "anything"}, None]), allow_pickle=True)
        shard("en", 6, vectors(1), ["metadata lost"])
        write(folder / "en" / "metadata" / "metadata_0006.parquet", b"PAR1 no longer")
        sample.dropped = Counter(damaged_embedding=2 + 2 + 2 + 2, empty_text=2, bad_row=1)
    return sample


def own_table(folder: Path, broken: bool) -> Sample:
    rows = [["file", "words", "verdict"]]
    rows += [
        [write(folder / "pictures" / f"{i}.jpg", photograph(i)), f"text {i}", str(i % 2)] for i in range(20)
    ]
    options = {
        "image": "file", "text": "words", "label": "verdict", "images": str(folder / "pictures"),
        "validation_fraction": 0.0, "test_fraction": 0.0,
    }  # fmt: skip
    sample = Sample(str(folder / "table.csv"), {"train": 20}, options=options)
    if broken:
        bad = write_broken_pictures(folder / "pictures")
        rows += [[name, "text", "1"] for name in bad]
        rows += [[name, "text", "1"] for name in ESCAPES]
        rows += [["0.jpg", "", "1"], ["0.jpg", "text", ""], ["", "text", "1"], ["0.jpg"]]
        rows += [["http://example.org/a.jpg", "text", "1"]]
        sample.dropped = Counter(bad.values()) + Counter(
            path_escape=3, empty_text=1, bad_label=1, bad_row=2, missing_file=1
        )
    write_csv(folder / "table.csv", rows)
    return sample


SAMPLES: dict[str, Callable[[Path, bool], Sample]] = {
    maker.__name__: maker
    for maker in (
        conceptual_captions, hateful_memes, mm_imdb, upmc_food101, vizwiz, image_folder, embedding_store, own_table,
    )
}  # fmt: skip


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """(source, folder, broken=False) -> a small dataset of that source's format in that folder."""

    def make(source: str, folder: Path, broken: bool = False) -> Sample:
        if source not in SAMPLES:
            pytest.fail(f"write a small dataset of source {source} in {__file__}")
        write(folder.parent / "secret.jpg", photograph(999))
        return SAMPLES[source](folder, broken)

    return make

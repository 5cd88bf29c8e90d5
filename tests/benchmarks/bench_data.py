"""How fast pictures and texts come from disk: `make bench-data`, a minute of CPU time, about two minutes.

Writes 3,000 pictures of 224 px with captions as our shards and as a WebDataset tar, then reads them in every way below in
interleaved rounds, and prints the medians: rows per second of CPU (of all processes together) and of wall time, and
ratios. Other work on the machine moves CPU times too (hardware threads share a core): read RESULTS.md for how far. No
number makes it fail.

    thesis       its three datasets (alignment, masked text, masked image) over one list of files: each row is decoded three
                 times with PIL, normalised to float32 by itself, and its caption padded to 197 by a call of its own
                 (spec: ViLBERT, fact 9, D8 and D9); tokens and patches are masked in loops, two views augmented on the CPU.
                 A row is a row of all three. How strong its jitter and blur were is our guess: the spec does not say.
    thesis, bare the same without augmentation. Against this one, x17 is all that a decoder alone can be.
    decoder      simplejpeg alone, into one buffer, from memory: what nothing can beat by much.
    ours         `open_stream` from disk, in this process, one thread that decodes.
    ours, first  the same with a fresh stream: footers are read and captions tokenised, as in the first epoch.
    ours, Ray    `RayStream` of one reader: Ray's tasks read, this process decodes. Ray is started before, each pass is not.
    ours, Ray 4x the same with four times the rows in one pass, of which starting it takes a smaller part.
    loader       a plain torch DataLoader on the same Parquet (PIL decodes; uint8; captions tokenised a batch), 0 and 2
                 workers.
    webdataset   the same from a tar, in this process.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # per core means per core
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_DISABLE_USAGE_STATS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
import torch
from PIL import Image

from data.batch import ImageTextBatch
from data.prefetch import timed
from data.row import Row
from data.row_pool import BatchOrder, RaggedTexts, RowPool, decode_pictures
from data.shards import ShardSet, open_shards, write_shards
from data.stream import RayStream, open_stream, ray_dataset
from data.streamed_split import StreamedSplit
from data.text import HubTokenizer
from model import torchvision_guard  # noqa: F401 - before torchvision

ROWS = 3000
SIDE = 224
BATCH = 64
PADDED_LENGTH = 197
THESIS_ROWS = 128
PICTURES = 200
"""Different ones; each is stored again and again with a few bytes changed, since making one takes 20 ms."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Rows a second of every way to read pictures and texts.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-ray", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(f"writing {ROWS:,} rows ...", flush=True)
        bench = Bench(Path(folder))
        ways: dict[str, Callable[[], int]] = {
            "thesis": lambda: bench.thesis(augments=True),
            "thesis, bare": lambda: bench.thesis(augments=False),
            "decoder": bench.decoder,
            "ours": bench.ours(),
            "ours, first": lambda: bench.ours()(),
            "loader, 0": lambda: bench.loader(0),
            "loader, 2": lambda: bench.loader(2),
            "webdataset": bench.webdataset,
        }
        if not arguments.without_ray:
            start_ray()
            ways |= {"ours, Ray": lambda: bench.ray(1), "ours, Ray 4x": lambda: bench.ray(4)}
        ways["ours"]()  # tokenised once; its later epochs are what is measured
        figures = measure(ways, arguments.rounds)
        report(figures, bench)


class Bench:
    """The data on disk, and one method for each way to read them; each returns how many rows it read."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        kinds = [textured_jpeg(rng) for _ in range(PICTURES)]
        words = [f"word{i}" for i in range(4000)]
        self.tokenizer = write_tokenizer(folder / "tokenizer", words)
        captions = [" ".join(rng.choice(words, rng.integers(6, 15))) for _ in range(ROWS)]
        # A comment after the end-of-image marker makes every file another one without changing its pixels.
        pictures = [kinds[i % PICTURES] + f"{i:08d}".encode() for i in range(ROWS)]
        write_shards(
            (
                Row(id=f"{i:06d}", split="train", group=f"{i:06d}", image=image, caption=caption)
                for i, (image, caption) in enumerate(zip(pictures, captions, strict=True))
            ),
            folder / "shards",
            source={},
            labels=[],
            rows_a_group=512,
        )
        self.shards: ShardSet = open_shards(folder / "shards")
        self.tar = folder / "rows.tar"
        with tarfile.open(self.tar, "w") as tar:
            for i, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
                for name, content in ((f"{i:06d}.jpg", image), (f"{i:06d}.txt", caption.encode())):
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        self.files = folder / "files"
        self.files.mkdir()
        for i in range(THESIS_ROWS):
            (self.files / f"{i}.jpg").write_bytes(pictures[i])
        self.pictures, self.captions = pictures, captions
        self.mean_kilobytes = statistics.mean(map(len, pictures)) / 1000

    def thesis(self, *, augments: bool) -> int:
        weak, strong = thesis_augmentations() if augments else (torch.clone, torch.clone)
        self._weak, self._strong = weak, strong
        order = np.random.default_rng(0).permutation(THESIS_ROWS)
        for sample in (self._alignment_sample, self._masked_text_sample, self._masked_image_sample):
            for start in range(0, THESIS_ROWS, BATCH):
                torch.utils.data.default_collate([sample(i) for i in order[start : start + BATCH]])
        return THESIS_ROWS

    def _alignment_sample(self, i: int) -> dict[str, torch.Tensor]:
        with Image.open(self.files / f"{i}.jpg") as picture:
            pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())
        text = self.tokenise_alone(self.captions[i])
        return {"image": normalised(pixels), "ids": text["input_ids"][0], "mask": text["attention_mask"][0]}

    def _masked_text_sample(self, i: int) -> dict[str, torch.Tensor]:
        sample = self._alignment_sample(i)
        return sample | {"ids": masked_in_a_loop(sample["ids"], sample["mask"], self.tokenizer)}

    def _masked_image_sample(self, i: int) -> dict[str, torch.Tensor]:
        sample = self._alignment_sample(i)
        masked = self._strong(sample["image"])
        for row in range(0, SIDE, 16):
            for column in range(0, SIDE, 16):
                if np.random.random() < 0.1:
                    masked[:, row : row + 16, column : column + 16] = 0
        return sample | {"image": self._weak(sample["image"]), "masked": masked}

    def tokenise_alone(self, caption: str) -> Any:
        return self.tokenizer._hub(
            caption, padding="max_length", truncation=True, max_length=PADDED_LENGTH, return_tensors="pt"
        )

    def decoder(self) -> int:
        buffer = np.empty((SIDE, SIDE, 3), np.uint8)
        for picture in self.pictures:
            simplejpeg.decode_jpeg(picture, colorspace="RGB", buffer=buffer)
        return ROWS

    def ours(self) -> Callable[[], int]:
        stream = open_stream(
            self.shards, "train", self.tokenizer, text_column="caption", memory_bytes=0, num_threads=1
        )
        return lambda: consume(stream.batches(BATCH, seed=1))

    def ray(self, passes: int) -> int:
        rows = ray_dataset(self.shards.folder, "train")
        for _ in range(passes - 1):
            rows = rows.union(ray_dataset(self.shards.folder, "train"))
        (part,) = rows.streaming_split(1, equal=True)
        stream = RayStream(
            rows=part, manifest=self.shards.manifest, split="train", tokenizer=self.tokenizer, num_workers=1,
            text_column="caption",
        )  # fmt: skip
        return consume(stream.batches(BATCH, seed=1))

    def loader(self, num_workers: int) -> int:
        rows = ParquetRows(self.shards.paths("train"))
        batches = torch.utils.data.DataLoader(
            rows, batch_size=BATCH, shuffle=True, num_workers=num_workers, collate_fn=self.collate
        )
        return sum(len(images) for images, _, _ in batches)

    def webdataset(self) -> int:
        import webdataset

        rows = (
            webdataset.WebDataset(str(self.tar), shardshuffle=False, empty_check=False)
            .shuffle(1000)
            .to_tuple("jpg", "txt")
            .map_tuple(pil_pixels, bytes.decode)
            .batched(BATCH, collation_fn=self.collate)
        )
        return sum(len(images) for images, _, _ in rows)

    def collate(self, samples: Sequence[tuple[torch.Tensor, str]]) -> tuple[torch.Tensor, Any, Any]:
        text = self.tokenizer._hub([caption for _, caption in samples], padding=True, return_tensors="pt")
        return torch.stack([pixels for pixels, _ in samples]), text["input_ids"], text["attention_mask"]

    def stages(self) -> dict[str, tuple[float, float]]:
        """{stage: (ours, the thesis')} in CPU microseconds a row; of the thesis, all three of its samples."""
        stream = open_stream(self.shards, "train", self.tokenizer, text_column="caption", memory_bytes=0)
        assert isinstance(stream, StreamedSplit)
        read = stream._pools(BatchOrder(batch_size=BATCH, seed=1))
        pools = [stream._read(segments) for segments in read]
        pool = RowPool.joined(pools)
        rows = np.random.default_rng(0).permutation(len(pool))
        column = pq.read_table([str(path) for path in self.shards.paths("train")], columns=["caption"])[
            "caption"
        ]
        starts = range(0, ROWS, BATCH)
        ours = {
            "read": lambda: [stream._read(segments) for segments in read],
            "decode": lambda: [
                decode_pictures(pool.pictures[i : i + BATCH], SIDE, names=pool.ids[i : i + BATCH])
                for i in starts
            ],
            "tokenise": lambda: RaggedTexts.of(column, self.tokenizer, 64),
            "batch": lambda: [pool.batch(rows[i : i + BATCH], image_size=SIDE, pad_id=0) for i in starts],
        }
        few = range(THESIS_ROWS)
        stored = self.pictures[:THESIS_ROWS]
        pixels = [pil_pixels(picture).permute(1, 2, 0) for picture in stored]
        samples = [self._alignment_sample(i) for i in range(BATCH)]
        thesis = {
            "read": lambda: [(self.files / f"{i}.jpg").read_bytes() for i in few],
            "decode": lambda: [pil_pixels(picture) for picture in stored],
            "normalise": lambda: [normalised(p) for p in pixels],
            "tokenise": lambda: [self.tokenise_alone(self.captions[i]) for i in few],
            "collate": lambda: [torch.utils.data.default_collate(samples) for _ in range(2)],
        }
        ours_us = {name: cpu_microseconds(work) / ROWS for name, work in ours.items()}
        ours_us["collate"] = max(0.0, ours_us.pop("batch") - ours_us["decode"])
        thesis_us = {
            name: 3 * cpu_microseconds(work) / (2 * BATCH if name == "collate" else THESIS_ROWS)
            for name, work in thesis.items()
        }
        return {name: (ours_us.get(name, 0.0), microseconds) for name, microseconds in thesis_us.items()}


class ParquetRows(torch.utils.data.Dataset):
    """What a plain DataLoader does with Parquet: the table in memory, a row decoded when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.table = pq.read_table([str(path) for path in paths], columns=["image", "caption"])

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, i: int) -> tuple[torch.Tensor, str]:
        return pil_pixels(self.table["image"][i].as_py()), self.table["caption"][i].as_py()


def consume(batches: Iterable[ImageTextBatch]) -> int:
    """Reads all of it; the rows there were."""
    measured, _ = timed(batches)
    return sum(len(batch) for batch in measured)


def pil_pixels(stored: bytes) -> torch.Tensor:
    """uint8 [3, H, W]."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).copy()).permute(2, 0, 1)


def normalised(pixels_HWC: torch.Tensor) -> torch.Tensor:
    """float32 [3, H, W], as torchvision's ToTensor and Normalize make it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    floats = pixels_HWC.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    return floats.sub_(mean[:, None, None]).div_(std[:, None, None])


def thesis_augmentations() -> tuple[
    Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]
]:
    """Its weak and its strong view of the masked-image objective, on normalised pixels as there (spec: section 3)."""
    from torchvision import transforms as T

    weak = T.Compose([T.RandomRotation(5), T.RandomRotation(5), T.ColorJitter(0.1, 0.1, 0.1),
                      T.RandomResizedCrop(SIDE, (0.95, 1.0))])  # fmt: skip
    strong = T.Compose([T.RandomHorizontalFlip(), T.RandomRotation(15), T.ColorJitter(0.4, 0.4, 0.4),
                        T.RandomResizedCrop(SIDE, (0.7, 1.0)), T.RandomGrayscale(0.2), T.GaussianBlur(3)])  # fmt: skip
    return weak, strong


def masked_in_a_loop(ids: torch.Tensor, mask: torch.Tensor, tokenizer: HubTokenizer) -> torch.Tensor:
    """15 % of the tokens that are not padding, token by token, in the proportions of BERT."""
    masked = ids.clone()
    for position in range(len(ids)):
        if mask[position] and np.random.random() < 0.15:
            fate = np.random.random()
            if fate < 0.8:
                masked[position] = tokenizer.mask_id
            elif fate < 0.9:
                masked[position] = np.random.randint(tokenizer.vocabulary_size)
    return masked


def textured_jpeg(rng: np.random.Generator) -> bytes:
    """About 20 kB at quality 90, as photographs of that size take: blobs of three sizes over each other."""
    pixels = np.full((SIDE, SIDE, 3), 128.0)
    for cells, contrast in ((7, 80), (28, 50), (112, 14)):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        blobs = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels += contrast / 127 * (np.asarray(blobs, dtype=np.float64) - 128)
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8)), quality=90, colorspace="RGB"
    )


def write_tokenizer(folder: Path, words: Sequence[str]) -> HubTokenizer:
    """A BERT tokenizer with these words and their pieces."""
    from transformers import BertTokenizerFast

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(f"##{i}" for i in range(100))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(str(folder))
    return HubTokenizer(str(folder))


def start_ray() -> None:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False


def measure(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """{way: (rows a CPU second, rows a second)}, medians over rounds in which each way has its turn."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    compared = (
        "thesis",
        "decoder",
        "ours",
    )  # quick ones, by which the others are judged: three turns a round
    for number in range(rounds):
        for name, read in (
            [(n, ways[n]) for n in compared] + [*ways.items()] + [(n, ways[n]) for n in compared]
        ):
            gc.collect()
            cpu, wall = tree_cpu_seconds(), time.perf_counter()
            rows = read()
            wall = time.perf_counter() - wall
            samples[name].append((rows / (tree_cpu_seconds() - cpu), rows / wall))
        print(f"round {number + 1} of {rounds} done", flush=True)
    return {
        name: (statistics.median(s[0] for s in pairs), statistics.median(s[1] for s in pairs))
        for name, pairs in samples.items()
    }


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and all below it, ended ones included (Linux; Ray's daemons are below it too)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended since it was listed
        parents[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = sum(
            map(int, fields[11:15])
        )  # its own and its ended children's, user and system
    total = 0
    for process in ticks:
        ancestor = process
        while ancestor not in (0, os.getpid()):
            ancestor = parents.get(ancestor, 0)
        total += ticks[process] if ancestor else 0
    return total / os.sysconf("SC_CLK_TCK")


def cpu_microseconds(work: Callable[[], object]) -> float:
    """Median of three."""
    samples: list[float] = []
    for _ in range(3):
        started = time.process_time()
        work()
        samples.append((time.process_time() - started) * 1e6)
    return statistics.median(samples)


def report(figures: dict[str, tuple[float, float]], bench: Bench) -> None:
    thesis, decoder = figures["thesis"][0], figures["decoder"][0]
    print(f"\n{ROWS:,} rows, {SIDE} px, {bench.mean_kilobytes:.1f} kB a picture, batches of {BATCH}\n")
    print(f"{'':14}{'rows / core-s':>14}{'rows / s':>10}{'x thesis':>10}{'of decoder':>12}")
    for name, (per_core, per_second) in figures.items():
        print(
            f"{name:14}{per_core:14,.0f}{per_second:10,.0f}{per_core / thesis:10.1f}{per_core / decoder:12.0%}"
        )
    print(f"\n{'CPU us a row':14}{'ours':>10}{'thesis':>10}")
    for name, (ours, theirs) in bench.stages().items():
        print(f"{name:14}{ours:10.1f}{theirs:10.1f}")
    print()
    for line in verdicts(figures):
        print(line)


def verdicts(figures: dict[str, tuple[float, float]]) -> Iterator[str]:
    """The figures of targets.md, section 4, each against three ideas of what the thesis' path costs."""
    decoder, ours = figures["decoder"][0], figures["ours"][0]
    # The targets were set beside the thesis' own code, at 111 rows a core-second where simplejpeg made 4,311.
    baselines = {"thesis": figures["thesis"][0], "thesis, bare": figures["thesis, bare"][0],
                 "thesis, as measured for the targets": decoder * 111 / 4311}  # fmt: skip
    for name, least in (("ours", 30.0), ("ours, Ray", 15.0), ("ours, Ray 4x", 15.0)):
        for against, baseline in baselines.items():
            if name in figures:
                ratio = figures[name][0] / baseline
                yield f"{_met(ratio >= least)} accept: {name}, x{least:.0f}; is x{ratio:.1f} ({against})"
    yield f"{_met(ours >= 0.96 * decoder)} stretch: ours, 96 % of the decoder's own rate; is {ours / decoder:.0%}"


def _met(is_met: bool) -> str:
    return "met    " if is_met else "NOT met"


if __name__ == "__main__":
    main()

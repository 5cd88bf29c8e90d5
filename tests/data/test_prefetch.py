"""Prefetching: the same items in order, no more ahead than asked, errors where they are read, threads that end."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from data.batch import ImageTextBatch
from data.prefetch import prefetch, timed


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) == before


def wait_until(is_true) -> None:
    for _ in range(500):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_items_come_in_order_and_end():
    assert list(prefetch(range(50))) == list(range(50))
    ended = prefetch([])
    assert list(ended) == []
    assert list(ended) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_made_ahead_than_asked(depth: int):
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    with prefetch(source(), depth=depth) as items:
        wait_until(lambda: len(made) == depth)
        for i in range(5):
            assert next(items) == i
            time.sleep(0.01)
            assert len(made) <= i + 1 + depth
        wait_until(lambda: len(made) == 5 + depth)
    assert list(items) == []


def test_an_error_comes_after_the_items_before_it():
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    items = prefetch(source())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert list(items) == []


def test_the_source_is_closed_by_whoever_stops():
    closed: list[str] = []

    def source(name: str) -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(name)

    with prefetch(source("left")) as items:
        next(items)
    assert closed == ["left"]
    forgotten = prefetch(source("forgotten"))
    next(forgotten)
    del forgotten
    gc.collect()
    wait_until(lambda: closed == ["left", "forgotten"])


def test_batches_are_moved_by_the_thread():
    batch = ImageTextBatch(
        images_BCHW=torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        token_ids_BT=torch.ones(1, 4, dtype=torch.int64),
        text_mask_BT=torch.ones(1, 4, dtype=torch.bool),
        labels={"x": torch.zeros(1, dtype=torch.int64)},
        ids=["a"],
    )
    (moved,) = prefetch([batch], device="meta")
    assert moved.images_BCHW.device.type == moved.labels["x"].device.type == "meta"
    if torch.cuda.is_available():
        for _ in range(3):
            for moved in prefetch([batch] * 5, device="cuda"):
                assert moved.token_ids_BT.sum().item() == 4


def test_the_meter_tells_waiting_from_working():
    def source() -> Iterator[int]:
        for i in range(5):
            time.sleep(0.02)
            yield i

    items, meter = timed(source())
    meter.restart()
    for _ in items:
        time.sleep(0.06)
    assert meter.items == 5
    assert 0.1 <= meter.waited_seconds < 0.3
    assert 0.1 < meter.lap() < 0.5
    assert meter.lap() == 0.0  # nothing was waited for since
    assert meter.waited_seconds >= 0.1


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(ValueError, match="depth of 1 or more; got 0"):
        prefetch([1], depth=0)

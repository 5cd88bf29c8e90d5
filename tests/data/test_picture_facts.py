"""Copies of a picture are near, other pictures are not, and the quick search for near ones finds what a slow one does."""

import io

import numpy as np
import pytest
from PIL import Image

from data.images import ImageError, decode, encode
from data.picture_facts import near_pairs, perceptual_hash, picture_facts


def photograph(seed: int, side: int = 96) -> np.ndarray:
    """Smooth random patches, uint8 [3, side, side]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(smooth).transpose(2, 0, 1)


def distance(first: np.ndarray, second: np.ndarray) -> int:
    one, other = perceptual_hash(first), perceptual_hash(second)
    assert one is not None
    assert other is not None
    return (one ^ other).bit_count()


def test_copies_are_near_and_others_are_not():
    original = photograph(0)
    smaller = np.asarray(Image.fromarray(original.transpose(1, 2, 0)).resize((60, 50))).transpose(2, 0, 1)
    assert distance(original, smaller) <= 4
    assert distance(original, decode(encode(original, jpeg_quality=40))) <= 4
    assert distance(original, np.clip(original.astype(int) + 20, 0, 255).astype(np.uint8)) <= 4
    assert all(distance(original, photograph(seed)) > 10 for seed in range(1, 30))


def test_a_picture_of_one_colour_has_no_hash():
    assert perceptual_hash(np.full((3, 20, 20), 200, dtype=np.uint8)) is None
    assert perceptual_hash(photograph(0, side=5)) is not None


@pytest.mark.parametrize("max_bits", [0, 3, 4])
def test_near_pairs_are_those_of_comparing_all(max_bits: int):
    rng = np.random.default_rng(0)
    first_N = rng.integers(0, 2**64, 300, dtype=np.uint64)
    flips = [
        np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)) for n in [1, 3, 4, 5, 8]
    ]
    second_M = np.concatenate(
        [first_N[:5] ^ np.array(flips), first_N[50:60], rng.integers(0, 2**64, 99, dtype=np.uint64)]
    )
    slow = np.bitwise_count(first_N[:, None] ^ second_M[None, :]) <= max_bits
    found = near_pairs(first_N, second_M, max_bits)
    assert {tuple(pair) for pair in found.tolist()} == {tuple(pair) for pair in np.argwhere(slow).tolist()}
    assert (
        len(near_pairs(first_N[:0], second_M, max_bits))
        == len(near_pairs(first_N, second_M[:0], max_bits))
        == 0
    )


def test_why_a_picture_has_no_facts():
    whole = encode(photograph(0))
    facts = picture_facts(whole)
    assert (facts.height, facts.width) == (96, 96)
    assert facts == picture_facts(bytes(whole))
    huge = io.BytesIO()
    Image.new("1", (9000, 8000)).save(huge, "PNG")
    for stored, reason in [
        (b"", "empty_file"),
        (b"<html>", "not_an_image"),
        (whole[:20], "damaged_image"),
        (whole[: len(whole) // 2], "damaged_image"),
        (huge.getvalue(), "image_too_large"),
    ]:
        with pytest.raises(ImageError, match="row 7") as error:
            picture_facts(stored, "row 7")
        assert error.value.reason == reason

"""Augmented pictures: the same from the same seed, in range, and two views that show the same places."""

from dataclasses import replace

import pytest
import torch

from data.augmentation import Augmentation, augment, two_views


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (12, 3, 40, 48), dtype=torch.uint8, generator=generator(0))


ALL = Augmentation(strength=1.0, flip=True)
KINDS = ("crop", "colour", "grayscale", "blur", "noise")
NONE = Augmentation(strength=1.0, **dict.fromkeys(KINDS, 0.0))


def test_equal_seeds_give_equal_pixels(pictures: torch.Tensor):
    once = augment(pictures, ALL, generator(1))
    assert once.dtype == torch.uint8
    assert once.shape == pictures.shape
    assert torch.equal(once, augment(pictures, ALL, generator(1)))
    assert not torch.equal(once, augment(pictures, ALL, generator(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_pictures_alone(pictures: torch.Tensor, kind: str):
    only = replace(NONE, **{kind: 1.0})
    many = pictures.repeat(4, 1, 1, 1)
    assert not torch.equal(augment(many, only, generator(3)), many)


def test_no_strength_is_the_identity(pictures: torch.Tensor):
    assert torch.equal(augment(pictures, Augmentation(strength=0.0), generator(1)), pictures)
    assert torch.equal(augment(pictures, NONE, generator(1)), pictures)
    for view in two_views(pictures, Augmentation(strength=0.0), generator(1)):
        assert torch.equal(view, pictures)


def test_extremes_stay_extremes_of_the_range():
    """White that gets brighter must not wrap round to black, nor black to white."""
    strong = Augmentation(strength=1.0, noise=0.0)
    white = torch.full((64, 3, 16, 16), 255, dtype=torch.uint8)
    assert augment(white, strong, generator(5)).float().amin() > 255 * (1 - 0.6) ** 2 - 2
    assert augment(torch.zeros_like(white), strong, generator(5)).amax() == 0


def test_a_patch_lands_at_the_same_place_in_both_views():
    pictures = torch.full((32, 3, 64, 64), 96, dtype=torch.uint8)
    for i in range(32):
        row, column = 16 + i % 4 * 6, 16 + i // 4 * 3
        pictures[i, :, row : row + 8, column : column + 8] = 250
    first, second = two_views(pictures, replace(ALL, noise=0.0, blur=0.0), generator(7))
    assert not torch.equal(first, second)

    def is_marked(view: torch.Tensor) -> torch.Tensor:
        luma = view.float().mean(dim=1)
        middle = (luma.amax(dim=(1, 2)) + luma.amin(dim=(1, 2))) / 2
        return luma > middle[:, None, None]

    assert (is_marked(first) == is_marked(second)).float().mean() > 0.99
    moved = (is_marked(first) != is_marked(pictures)).flatten(1).any(dim=1)
    assert moved.float().mean() > 0.9


def test_left_and_right_stay_unless_asked():
    half = torch.zeros((40, 3, 32, 32), dtype=torch.uint8)
    half[:, :, :, 16:] = 200

    def is_mirrored(flip: bool) -> torch.Tensor:
        view = augment(half, Augmentation(strength=1.0, flip=flip, noise=0.0), generator(4)).float()
        return view[..., 0].mean(dim=(1, 2)) > view[..., -1].mean(dim=(1, 2))

    assert not is_mirrored(flip=False).any()
    assert 8 <= is_mirrored(flip=True).sum() <= 32


def test_grayscale_takes_the_colour_only(pictures: torch.Tensor):
    only = replace(NONE, grayscale=1.0)
    many = pictures.repeat(8, 1, 1, 1)
    grey = augment(many, only, generator(1)).float()
    is_grey = (grey.amax(dim=1) - grey.amin(dim=1)).amax(dim=(1, 2)) <= 1
    assert 5 <= is_grey.sum() <= 40  # a fifth of 96
    luma = torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114]), many.float())
    assert (grey[is_grey].mean(dim=1) - luma[is_grey]).abs().max() <= 1


def test_what_cannot_be_augmented_is_refused(pictures: torch.Tensor):
    with pytest.raises(
        ValueError, match=r"uint8 pixels \[B, 3, H, W\], before normalising; got torch.float32"
    ):
        augment(pictures.float(), ALL, generator(0))
    with pytest.raises(ValueError, match=r"strength of an augmentation is in 0..1; got 2"):
        Augmentation(strength=2)
    with pytest.raises(ValueError, match=r"blur is a share of the strength, in 0..1; got -1"):
        Augmentation(blur=-1)

"""Changed copies of pictures: cropped, recoloured, blurred. On the training device, a batch at a time, from a generator.

Pixels come and go as uint8: whoever trains normalises once, afterwards (the thesis augmented normalised pixels, which
its colour jitter clipped to 0..1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# What strength 1 means: about the views of SimCLR (Chen et al. 2020, appendix A), milder in crops and hue, since a
# caption must stay true of the picture.
_SMALLEST_AREA = 0.35
_LARGEST_ASPECT = 4 / 3
_JITTER = 0.6
_HUE_TURN = 0.1
_GRAYSCALE_PROBABILITY = 0.2
_BLUR_PROBABILITY = 0.5
_BLUR_SIGMA_OF_SIDE = 2.0 / 224
_NOISE_PROBABILITY = 0.5
_NOISE_SIGMA = 0.06

_TO_LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far pictures are changed. Each kind of change has its share of `strength`; 0 turns it off."""

    strength: float = 0.5
    """0 (pictures stay as they are) to 1 (about as far as contrastive learning goes)."""
    crop: float = 1.0
    colour: float = 1.0
    """Brightness, contrast, saturation and hue."""
    grayscale: float = 1.0
    blur: float = 1.0
    noise: float = 1.0
    flip: bool = False
    """Left and right change places in half of the pictures. Off: captions and questions say "left" and "right"."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"the strength of an augmentation is in 0..1; got {self.strength}")
        for name in ("crop", "colour", "grayscale", "blur", "noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share of the strength, in 0..1; got {getattr(self, name)}")


def augment(images_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """The pictures (uint8), each changed in its own way; uint8 of the same shape and device.

    Drawn where `generator` lives, so that a CPU generator gives the same changes on every device (but for the noise,
    of which only the seed is drawn). Raises ValueError unless the pixels are uint8 [B, 3, H, W].
    """
    _check_pixels(images_BCHW)
    moved = _move(images_BCHW.float(), augmentation, generator)
    return _to_uint8(_recolour(moved, augmentation, generator))


def two_views(
    images_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two views of each picture for the masked-image objective: cropped and flipped alike, recoloured apart.

    A patch of one view shows the same part of the picture as the same patch of the other (the thesis drew crops and
    flips apart, and matched patches by their number all the same). Otherwise as `augment`.
    """
    _check_pixels(images_BCHW)
    moved = _move(images_BCHW.float(), augmentation, generator)
    first = _to_uint8(_recolour(moved, augmentation, generator))
    return first, _to_uint8(_recolour(moved, augmentation, generator))


def _move(pixels_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random resized crop (Szegedy et al. 2015) and flip: one bilinear reading at shifted places."""
    crop = augmentation.strength * augmentation.crop
    if crop == 0 and not augmentation.flip:
        return pixels_BCHW
    rows, device = len(pixels_BCHW), pixels_BCHW.device
    area_B, aspect_B, x_B, y_B, flip_B = _uniform((5, rows), generator, device)
    area_B = 1 - crop * (1 - _SMALLEST_AREA) * area_B
    aspect_B = torch.exp((2 * aspect_B - 1) * crop * math.log(_LARGEST_ASPECT))
    width_B = (area_B * aspect_B).sqrt().clamp(max=1.0)
    height_B = (area_B / aspect_B).sqrt().clamp(max=1.0)
    mirror_B = torch.where(flip_B < 0.5, -1.0, 1.0) if augmentation.flip else torch.ones_like(flip_B)
    # Rows of the affine map from places in the result (-1..1) to places in the picture.
    theta_B23 = torch.zeros(rows, 2, 3, device=device)
    theta_B23[:, 0, 0] = width_B * mirror_B
    theta_B23[:, 0, 2] = (2 * x_B - 1) * (1 - width_B)
    theta_B23[:, 1, 1] = height_B
    theta_B23[:, 1, 2] = (2 * y_B - 1) * (1 - height_B)
    grid = F.affine_grid(theta_B23, list(pixels_BCHW.shape), align_corners=False)
    return F.grid_sample(pixels_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolour(pixels_BCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    strength = augmentation.strength
    if strength == 0:
        return pixels_BCHW
    pixels_BCHW = _jitter(
        pixels_BCHW, strength * augmentation.colour, strength * augmentation.grayscale, generator
    )
    pixels_BCHW = _blur(pixels_BCHW, strength * augmentation.blur, generator)
    return _add_noise(pixels_BCHW, strength * augmentation.noise, generator)


def _jitter(pixels_BCHW: Tensor, colour: float, grayscale: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, hue and grayscale as one affine map of the three channels a picture.

    In this order, and clipped once at the end: torchvision clips after each, which flattens skies.
    """
    if colour == 0 and grayscale == 0:
        return pixels_BCHW
    rows, device = len(pixels_BCHW), pixels_BCHW.device
    brightness_B, contrast_B, saturation_B, hue_B, grayscale_B = _uniform((5, rows), generator, device)
    brightness_B = 1 + (2 * brightness_B - 1) * _JITTER * colour
    contrast_B = 1 + (2 * contrast_B - 1) * _JITTER * colour
    saturation_B = 1 + (2 * saturation_B - 1) * _JITTER * colour
    saturation_B = torch.where(grayscale_B < _GRAYSCALE_PROBABILITY * grayscale, 0.0, saturation_B)
    angle_B = (2 * hue_B - 1) * 2 * math.pi * _HUE_TURN * colour

    luma_13 = torch.tensor([_TO_LUMA], device=device)
    to_yiq = torch.tensor(_RGB_TO_YIQ, device=device)
    turn_B33 = torch.zeros(
        rows, 3, 3, device=device
    )  # of the two chroma axes; a saturation of 0 leaves luma alone
    turn_B33[:, 0, 0] = 1
    turn_B33[:, 1, 1] = turn_B33[:, 2, 2] = angle_B.cos() * saturation_B
    turn_B33[:, 2, 1] = angle_B.sin() * saturation_B
    turn_B33[:, 1, 2] = -turn_B33[:, 2, 1]
    colour_B33 = torch.linalg.inv(to_yiq) @ turn_B33 @ to_yiq
    mean_luma_B = (pixels_BCHW.mean(dim=(2, 3)) @ luma_13.T)[:, 0]
    scale_B = brightness_B * contrast_B
    shift_B = brightness_B * (1 - contrast_B) * mean_luma_B  # grey, which neither hue nor saturation moves
    matrix_B33 = colour_B33 * scale_B[:, None, None]
    return torch.einsum("bij,bjhw->bihw", matrix_B33, pixels_BCHW) + shift_B[:, None, None, None]


def _blur(pixels_BCHW: Tensor, blur: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur of some of the pictures, each with its own width; wider in larger pictures."""
    if blur == 0:
        return pixels_BCHW
    rows, channels, height, width = pixels_BCHW.shape
    device = pixels_BCHW.device
    chosen_B, sigma_B = _uniform((2, rows), generator, device)
    largest = max(0.3, _BLUR_SIGMA_OF_SIDE * max(height, width) * blur)
    radius = min(math.ceil(2.5 * largest), min(height, width) - 1)
    # A picture that is not chosen gets a kernel so narrow that it is exactly 1 in the middle and 0 elsewhere.
    is_chosen_B = chosen_B < _BLUR_PROBABILITY * blur
    sigma_B = torch.where(is_chosen_B, 0.1 + (largest - 0.1) * sigma_B, 1e-3)
    offset_K = torch.arange(-radius, radius + 1, device=device)
    kernel_BK = torch.exp(-0.5 * (offset_K / sigma_B[:, None]) ** 2)
    kernel_BK = kernel_BK / kernel_BK.sum(dim=1, keepdim=True)
    kernel = kernel_BK.repeat_interleave(channels, dim=0)[:, None]
    planes = F.pad(pixels_BCHW, (radius, radius, radius, radius), mode="reflect")
    planes = planes.reshape(1, rows * channels, height + 2 * radius, width + 2 * radius)
    planes = F.conv2d(planes, kernel[:, :, None, :], groups=rows * channels)
    planes = F.conv2d(planes, kernel[:, :, :, None], groups=rows * channels)
    return planes.reshape(rows, channels, height, width)


def _add_noise(pixels_BCHW: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    if noise == 0:
        return pixels_BCHW
    device = pixels_BCHW.device
    chosen_B, sigma_B = _uniform((2, len(pixels_BCHW)), generator, device)
    sigma_B = torch.where(chosen_B < _NOISE_PROBABILITY * noise, sigma_B * _NOISE_SIGMA * 255 * noise, 0.0)
    # Ten million draws a batch take a CPU longer than a step takes: they are made where the pixels are.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    here = torch.Generator(device).manual_seed(seed)
    draw_BCHW = torch.randn(pixels_BCHW.shape, generator=here, device=device)
    return pixels_BCHW + draw_BCHW * sigma_B[:, None, None, None]


def _to_uint8(pixels_BCHW: Tensor) -> Tensor:
    return pixels_BCHW.round().clamp(0, 255).to(torch.uint8)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def _check_pixels(images_BCHW: Tensor) -> None:
    if images_BCHW.dtype != torch.uint8 or images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise ValueError(
            f"augmentation takes uint8 pixels [B, 3, H, W], before normalising; got {images_BCHW.dtype} "
            f"{tuple(images_BCHW.shape)}"
        )

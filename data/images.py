"""Pictures: stored bytes -> uint8 pixels, and back.

Pixels travel as uint8 (a float32 picture is four times as large and halves the throughput of a worker pool);
whoever trains turns them into floats on its own device.
"""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
"""Pictures that say they are larger are refused before any pixel is decoded (a 40 kB file can claim 10 GB)."""

_JPEG_MAGIC = b"\xff\xd8\xff"
_EXIF_SEARCH_BYTES = 65_536


class ImageError(ValueError):
    """A picture that cannot be decoded; the message names the row."""


def decode(
    stored: bytes, *, size: int | None = None, name: str = "image", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """RGB pixels [3, H, W] as uint8 of a JPEG, PNG or anything else PIL reads.

    `size` squeezes the picture to `size` x `size`; nothing is cropped, since the words of a meme stand at its
    edges. Rotation in EXIF is applied, transparency is laid on white, palettes, greyscale, 16-bit and CMYK become
    RGB, of an animation the first frame counts. Raises ImageError, naming `name`.
    """
    pixels_HWC = _decode_plain_jpeg(stored, name, max_pixels)
    if pixels_HWC is None:
        pixels_HWC = _decode_with_pil(stored, name, max_pixels)
    if size is not None and pixels_HWC.shape[:2] != (size, size):
        resized = Image.fromarray(pixels_HWC).resize((size, size), Image.Resampling.BICUBIC)
        pixels_HWC = np.asarray(resized)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def encode(pixels_CHW: np.ndarray, *, jpeg_quality: int | None = None) -> bytes:
    """Bytes of uint8 RGB pixels [3, H, W]: PNG (lossless) unless a JPEG quality 1..100 is given."""
    if pixels_CHW.dtype != np.uint8 or pixels_CHW.ndim != 3 or pixels_CHW.shape[0] != 3:
        raise ImageError(f"encode needs uint8 pixels [3, H, W]; got {pixels_CHW.dtype} {pixels_CHW.shape}")
    pixels_HWC = np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))
    if jpeg_quality is not None:
        return simplejpeg.encode_jpeg(pixels_HWC, quality=jpeg_quality, colorspace="RGB")
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


def stored_size(stored: bytes, *, name: str = "image") -> tuple[int, int]:
    """(height, width) as the file's header says, without decoding pixels. Raises ImageError, naming `name`."""
    with _open(stored, name) as picture:
        return picture.height, picture.width


def _decode_plain_jpeg(stored: bytes, name: str, max_pixels: int) -> np.ndarray | None:
    """The fast path (two thirds of PIL's time); None for what it would get wrong: CMYK, rotated, damaged."""
    if stored[:3] != _JPEG_MAGIC or b"Exif\x00\x00" in stored[:_EXIF_SEARCH_BYTES]:
        return None
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(stored)
        _check_pixels(int(height) * int(width), name, max_pixels)
        if colour_space in ("CMYK", "YCCK"):
            return None
        return simplejpeg.decode_jpeg(stored, colorspace="RGB")
    except ImageError:
        raise
    except ValueError:
        return None  # PIL forgives more, and its message says what is wrong when it does not


def _decode_with_pil(stored: bytes, name: str, max_pixels: int) -> np.ndarray:
    with _open(stored, name) as picture:
        _check_pixels(picture.height * picture.width, name, max_pixels)
        try:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            raise ImageError(f"{name}: damaged picture: {error}") from error


def _open(stored: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the lower one
            return Image.open(io.BytesIO(stored))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: picture too large to decode: {error}") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError(f"{name}: not a picture PIL can read: {error}") from error


def _check_pixels(pixels: int, name: str, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ImageError(f"{name}: picture of {pixels:,} pixels; the limit is {max_pixels:,}")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        # PIL clips 16-bit values to 255, which turns a scan into a white sheet: scale them instead.
        grey = np.asarray(picture, dtype=np.float64)
        scale = 255.0 / 65535.0 if grey.max(initial=0.0) > 255 else 1.0
        return Image.fromarray(np.clip(np.rint(grey * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        # Transparent pixels often hide black; on white they look as they do on a page.
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")

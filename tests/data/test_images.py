"""Pictures of every stored form come out as the RGB a viewer would show."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images import ImageError, decode, encode, stored_size


def stored(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def test_png_round_trip_is_exact_and_keeps_channel_order():
    pixels = np.zeros((3, 5, 7), dtype=np.uint8)
    pixels[0] = 200  # red
    pixels[2, 4, 6] = 90
    again = decode(encode(pixels))
    assert again.dtype == np.uint8
    assert again.shape == (3, 5, 7)
    np.testing.assert_array_equal(again, pixels)


def test_jpeg_round_trip_is_close():
    pixels = np.full((3, 16, 24), 120, dtype=np.uint8)
    pixels[1] = 30
    again = decode(encode(pixels, jpeg_quality=95))
    assert again.shape == pixels.shape
    assert np.abs(again.astype(int) - pixels).max() <= 4


def test_size_squeezes_to_a_square_without_cropping():
    picture = Image.new("RGB", (40, 10), "white")
    picture.paste((255, 0, 0), (0, 0, 10, 10))  # a quarter of the width, at the edge
    resized = decode(stored(picture), size=16)
    assert resized.shape == (3, 16, 16)
    assert resized[1, 8, 1] < 40
    assert resized[1, 8, 8] > 215


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (4, 4), (1, 2, 3)).convert("P"), None),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16)), (128, 128, 128)),
    ],
    ids=["grey", "one-bit", "palette", "transparent", "opaque", "grey-alpha", "16-bit"],
)
def test_modes_become_rgb(picture: Image.Image, expected: tuple[int, int, int] | None):
    pixels = decode(stored(picture))
    wanted = expected or picture.convert("RGB").getpixel((0, 0))
    assert tuple(pixels[:, 0, 0].tolist()) == wanted


def test_palette_with_transparency_lies_on_white():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] + [0] * 765)
    assert decode(stored(picture, transparency=0))[:, 0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg_becomes_rgb():
    pixels = decode(stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = pixels[:, 8, 8].tolist()
    assert red > 200
    assert green < 60
    assert blue < 60


def test_rotation_in_exif_is_applied():
    picture = Image.new("RGB", (32, 16), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    assert decode(stored(picture, "JPEG", exif=exif)).shape == (3, 32, 16)


def test_header_tells_the_size():
    assert stored_size(stored(Image.new("RGB", (40, 10)))) == (10, 40)


def test_garbage_and_truncated_files_name_the_row():
    with pytest.raises(ImageError, match="row train-7: not a picture"):
        decode(b"no picture at all", name="row train-7")
    whole = stored(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    with pytest.raises(ImageError, match="row train-8"):
        decode(whole[: len(whole) // 2], name="row train-8")
    jpeg = encode(np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8), jpeg_quality=90)
    with pytest.raises(ImageError, match="row train-9"):
        decode(jpeg[: len(jpeg) // 2], name="row train-9")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="row bomb"):
        decode(bomb, name="row bomb")


def test_limit_counts_pixels_of_jpegs_too():
    with pytest.raises(ImageError, match="256 pixels; the limit is 255"):
        decode(encode(np.zeros((3, 16, 16), dtype=np.uint8), jpeg_quality=90), max_pixels=255)


def test_encode_refuses_floats():
    with pytest.raises(ImageError, match="uint8"):
        encode(np.zeros((3, 4, 4), dtype=np.float32))

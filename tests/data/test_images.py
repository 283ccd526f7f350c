"""Pixels of every kind of picture, and the bytes that ingest keeps of it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from drrho_clip.data.images import BadImage, PreparedImage, decode_image, looks_like_image, prepare_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def prepare(data: bytes, **changes: Any) -> PreparedImage:
    limits = {"image_size": 0, "min_side": 1, "max_pixels": 1_000_000, "max_aspect": 1000.0, **changes}
    return prepare_image(data, **limits)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth random colours, so that lossy formats change them little."""
    levels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def photo_40x20() -> Image.Image:
    """40x20, red at the left, blue at the right, a white bar along the top: no two orientations look alike."""
    image = Image.new("RGB", (40, 20), BLUE)
    image.paste(RED, (0, 0, 20, 20))
    image.paste(WHITE, (0, 0, 40, 5))
    return image


def with_orientation(orientation: int, image_format: str = "JPEG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo_40x20(), image_format, exif=exif, **options)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


# What each value of the tag says (TIFF 6.0): where row 0 and column 0 of the stored picture lie in the seen one.
SEEN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        *(("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})),
        pytest.param("AVIF", {"quality": 100, "subsampling": "4:4:4"}, marks=needs_avif),
    ],
)
def test_orientation_is_applied_and_the_tag_removed(orientation: int, image_format: str, options: dict[str, Any]) -> None:
    data = with_orientation(orientation, image_format, **options)
    expected = SEEN[orientation](pixels(photo_40x20()))
    assert np.abs(pixels(decode_image(data)) - expected).max() < 40  # JPEG rings at edges
    prepared = prepare(data)
    assert (prepared.height, prepared.width) == expected.shape[:2]
    stored = Image.open(io.BytesIO(prepared.data))
    assert stored.getexif().get(0x0112, 1) == 1
    assert np.abs(pixels(stored.convert("RGB")) - expected).max() < 60
    assert (prepared.data == data) == (orientation == 1 and image_format not in ("TIFF", "AVIF"))


def test_orientation_is_applied_before_resizing() -> None:
    prepared = prepare(with_orientation(6), image_size=10)
    assert (prepared.width, prepared.height) == (10, 20)
    assert pixels(decode_image(prepared.data))[2, 2, 0] > 200  # red, which was at the left, is at the top


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encode(photo_40x20(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert decode_image(data).size == (40, 20)


def rgba_gradient() -> tuple[Image.Image, np.ndarray]:
    """Red with alpha 0..255 from left to right, and what it must look like on white."""
    alpha = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    image = Image.new("RGBA", (256, 4), (*RED, 0))
    image.putalpha(Image.fromarray(alpha))
    green = np.rint(255 - alpha.astype(float))
    return image, np.stack([np.full_like(green, 255), green, green], axis=-1)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_blended_on_white(image_format: str) -> None:
    image, expected = rgba_gradient()
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    data = encode(image, image_format, **options)
    assert np.abs(pixels(decode_image(data)) - expected).max() <= 1
    prepared = prepare(data)
    assert (prepared.mode, prepared.extension) == ("RGBA", "png")
    assert np.abs(pixels(Image.open(io.BytesIO(prepared.data))) - expected).max() <= 1


def test_grey_with_alpha_is_blended_on_white() -> None:
    image = Image.merge("LA", [Image.new("L", (256, 2), 40), Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (2, 1)))])
    expected = 255 + (40 - 255) * np.arange(256) / 255
    assert np.abs(pixels(decode_image(encode(image)))[0, :, 0] - expected).max() <= 1


def palette_with_transparency() -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, *RED, *BLUE])
    image.putdata([0, 1, 2])
    return encode(image, transparency=bytes([0, 255, 128]))


def colour_key(mode: str, size: tuple[int, int], key: Any) -> bytes:
    image = Image.new(mode, size, 0)
    image.putpixel((1, 0), (200, 10, 10) if mode == "RGB" else 200)
    return encode(image, transparency=key)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(palette_with_transparency(), [WHITE, RED, (127, 127, 255)], id="palette with alpha"),
        pytest.param(colour_key("RGB", (2, 1), (0, 0, 0)), [WHITE, (200, 10, 10)], id="colour key of RGB"),
        pytest.param(colour_key("L", (2, 1), 0), [WHITE, (200, 200, 200)], id="colour key of grey"),
        pytest.param(colour_key("I;16", (2, 1), 200), [(0, 0, 0), WHITE], id="colour key of 16-bit grey"),
        pytest.param(encode(Image.new("1", (2, 1), 1)), [WHITE, WHITE], id="one bit"),
    ],
)
def test_pixels_of_small_modes(data: bytes, expected: list[tuple[int, int, int]]) -> None:
    assert np.abs(pixels(decode_image(data))[0] - np.array(expected)).max() <= 1
    prepared = prepare(data)
    assert prepared.extension == "png"
    assert np.abs(pixels(decode_image(prepared.data))[0] - np.array(expected)).max() <= 1


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_from_its_whole_range(image_format: str) -> None:
    ramp = np.linspace(0, 65535, 512).astype(np.uint16)
    data = encode(Image.fromarray(np.tile(ramp, (2, 1))), image_format)
    decoded = pixels(decode_image(data))
    assert np.abs(decoded[0, :, 0] - ramp / 257).max() <= 0.5001
    assert prepare(data).mode.startswith("I")


def test_half_bright_16_bit_picture_is_not_stretched() -> None:
    data = encode(Image.fromarray(np.full((2, 2), 0x8080, dtype=np.uint16)))
    assert set(pixels(decode_image(data)).ravel()) == {0x80}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255], id="I within 16 bits"),
        pytest.param(np.array([[-1000, 0, 1000]], dtype=np.int32), [0, 128, 255], id="I beyond"),
        pytest.param(np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255], id="F of 0..1"),
        pytest.param(np.array([[0, 10, 200]], dtype=np.float32), [0, 10, 200], id="F of 0..255"),
        pytest.param(np.array([[-5, 0, 5]], dtype=np.float32), [0, 128, 255], id="F beyond"),
        pytest.param(np.array([[0, np.nan, 1]], dtype=np.float32), [0, 0, 255], id="F with NaN"),
        pytest.param(np.array([[7, 7, 7]], dtype=np.int32) * 65536, [0, 0, 0], id="I of one level"),
    ],
)
def test_deep_grey_keeps_its_order(values: np.ndarray, expected: list[int]) -> None:
    assert pixels(decode_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == pytest.approx(expected, abs=0.5)


def test_pgm_of_16_bits() -> None:
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535)
    assert pixels(decode_image(data))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk(image_format: str) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # Pillow writes JPEGs with an Adobe marker and inverted values
    data = encode(cmyk, image_format)
    assert (b"Adobe" in data) == (image_format == "JPEG")
    assert np.abs(pixels(decode_image(data)) - np.array(RED)).max() <= 3
    assert prepare(data).mode == "CMYK"


def test_lab() -> None:
    lab = Image.new("LAB", (4, 4), (136, 208, 195))  # sRGB red
    data = encode(lab, "TIFF")
    red, green, blue = pixels(decode_image(data))[0, 0]
    assert red > 240
    assert max(green, blue) < 40


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        *(("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG")),
        *(("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP")),
        *(("YCbCr", "TIFF"), ("LAB", "TIFF"), ("I", "TIFF"), ("F", "TIFF"), ("1", "TIFF"), ("RGBA", "TIFF"), ("LA", "TIFF")),
        *(("RGB", "PPM"), ("RGBA", "TGA"), ("RGB", "JPEG2000"), ("RGBA", "ICO"), ("RGBX", "TIFF"), ("PA", "TIFF")),
    ],
)
def test_every_mode_gives_rgb(mode: str, image_format: str) -> None:
    source = noise(32, 24)
    if mode == "LAB":
        image: Image.Image = ImageCms.profileToProfile(
            source, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode in ("I;16", "I"):
        image = Image.fromarray(
            (np.asarray(source.convert("L")).astype(np.int32) * 257).astype("uint16" if mode == "I;16" else "int32")
        )
    elif mode == "PA":
        image = source.convert("P").convert("PA")
    else:
        image = source.convert(mode)
    options = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "ICO": {"sizes": [image.size]}}
    data = encode(image, image_format, **options.get(image_format, {}))
    decoded = decode_image(data)
    assert (decoded.mode, decoded.size) == ("RGB", source.size)
    grey = pixels(source.convert("L"))
    tolerance = 256 if mode == "1" else 40 if mode in ("P", "PA") else 12
    assert np.abs(pixels(decoded.convert("L")) - grey).mean() < tolerance
    prepared = prepare(data)
    assert prepared.extension in ("jpg", "png", "webp")
    assert np.abs(pixels(decode_image(prepared.data)) - pixels(decoded)).mean() < 3


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_animations_give_their_first_frame(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels(decode_image(data)) - np.array(RED)).max() <= 2
    prepared = prepare(data)
    assert getattr(Image.open(io.BytesIO(prepared.data)), "n_frames", 1) == 1
    assert np.abs(pixels(decode_image(prepared.data)) - np.array(RED)).max() <= 2


@pytest.mark.parametrize(
    ("image_format", "mode", "extension"),
    [("JPEG", "RGB", "jpg"), ("JPEG", "L", "jpg"), ("PNG", "RGB", "png"), ("PNG", "L", "png"), ("WEBP", "RGB", "webp")],
)
def test_bytes_stay_where_nothing_has_to_change(image_format: str, mode: str, extension: str) -> None:
    data = encode(noise(32, 24, mode), image_format)
    assert prepare(data, image_size=24) == PreparedImage(data, extension, 32, 24, mode)


def test_png_of_16_bits_a_channel_is_encoded_anew() -> None:
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0, 0, 0, 0x8080, 0)
    data = png_chunks((b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    prepared = prepare(data)
    assert prepared.data != data
    assert prepared.data[24] == 8
    assert pixels(decode_image(prepared.data))[0].tolist() == [[255, 0, 0], [0, 128, 0]]


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    body = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        pytest.param(encode(noise(64, 48), "JPEG"), "jpg", id="JPEG"),
        pytest.param(encode(noise(64, 48), "WEBP"), "jpg", id="lossy WebP"),
        pytest.param(encode(noise(64, 48), "WEBP", lossless=True), "png", id="lossless WebP"),
        pytest.param(encode(noise(64, 48)), "png", id="PNG"),
        pytest.param(encode(noise(64, 48), "BMP"), "png", id="BMP"),
        pytest.param(encode(noise(64, 48).convert("P"), "GIF"), "png", id="GIF"),
    ],
)
def test_photos_become_jpeg_and_drawings_png(data: bytes, extension: str) -> None:
    prepared = prepare(data, image_size=24)
    assert (prepared.extension, prepared.width, prepared.height) == (extension, 32, 24)
    assert {"jpg": "JPEG", "png": "PNG"}[extension] == Image.open(io.BytesIO(prepared.data)).format


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((100, 50), 25, (50, 25)),
        ((50, 101), 25, (25, 50)),
        ((33, 32), 32, (33, 32)),
        ((20, 10), 25, (20, 10)),
        ((100, 5), 3, (60, 3)),
        ((64, 64), 0, (64, 64)),
    ],
)
def test_shorter_side_is_shrunk_never_enlarged(size: tuple[int, int], image_size: int, expected: tuple[int, int]) -> None:
    prepared = prepare(encode(noise(*size)), image_size=image_size)
    assert (prepared.width, prepared.height) == expected
    assert Image.open(io.BytesIO(prepared.data)).size == expected


def test_what_is_encoded_anew_is_not_enlarged_either() -> None:
    prepared = prepare(encode(noise(20, 10, "RGBA")), image_size=25)
    assert (prepared.mode, prepared.width, prepared.height) == ("RGBA", 20, 10)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    prepared = prepare(encode(Image.fromarray(stripes)), image_size=8)
    assert np.abs(pixels(decode_image(prepared.data)) - 127.5).max() < 20


def test_draft_decoding_of_large_jpegs_looks_the_same() -> None:
    image = noise(1000, 800)
    prepared = prepare(encode(image, "JPEG", quality=95), image_size=40)
    expected = image.resize((50, 40), Image.Resampling.BICUBIC)
    assert np.abs(pixels(decode_image(prepared.data)) - pixels(expected)).mean() < 2


def test_profile_of_the_colours_survives() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    prepared = prepare(encode(noise(64, 48), "JPEG", icc_profile=profile), image_size=24)
    assert Image.open(io.BytesIO(prepared.data)).info["icc_profile"] == profile


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in its header, a few bytes long."""
    return png_chunks(
        (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    )


def cut(image_format: str, missing: int) -> bytes:
    rng = np.random.default_rng(0)
    return encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), image_format)[:-missing]


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        pytest.param(b"", "not_an_image", "0 bytes", id="empty"),
        pytest.param(b"<html>404</html>", "not_an_image", "<html>", id="web page"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not_an_image", "PostScript", id="EPS"),
        pytest.param(cut("JPEG", 100), "truncated", "truncated", id="JPEG without its end"),
        pytest.param(cut("PNG", 3000), "truncated", "", id="PNG cut"),
        pytest.param(cut("BMP", 3000), "truncated", "truncated", id="BMP cut"),
        pytest.param(cut("GIF", 1500), "truncated", "truncated", id="GIF cut"),
        pytest.param(encode(noise(64, 64), "JPEG")[:30], "truncated", "", id="JPEG header cut"),
        pytest.param(cut("WEBP", 1500), "decode", "", id="WebP cut"),
        pytest.param(bomb(), "too_many_pixels", "", id="bomb"),
        pytest.param(encode(Image.new("L", (1001, 1000))), "too_many_pixels", "1001x1000", id="too many pixels"),
        pytest.param(encode(Image.new("L", (7, 20))), "too_small", "7x20", id="too small"),
        pytest.param(encode(Image.new("L", (10, 201))), "aspect_ratio", "10x201", id="aspect ratio"),
    ],
)
def test_bad_images_are_named(data: bytes, reason: str, detail: str) -> None:
    with pytest.raises(BadImage) as caught:
        prepare(data, min_side=8, max_aspect=20.0)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BadImage, match="too_many_pixels"):
        prepare(
            png_chunks((b"IHDR", struct.pack(">IIBBBBB", 10**4, 10**4, 8, 2, 0, 0, 0)), (b"IDAT", b"no zlib"), (b"IEND", b""))
        )


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_give_a_picture_or_a_reason(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = bytearray(encode(noise(24, 24, seed=seed), image_format))
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(0, 256)
        try:
            prepared = prepare(bytes(data))
        except BadImage:
            continue
        assert decode_image(prepared.data).size == (prepared.width, prepared.height)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_pictures_are_known_by_their_first_bytes(image_format: str) -> None:
    assert looks_like_image(encode(noise(8, 8), image_format)[:16])
    assert not looks_like_image(b"a caption, no picture")

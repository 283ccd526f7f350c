"""From encoded pictures of any kind to RGB pixels, and to bytes that every reader understands.

Colour rules, the same for ingest and for reading:

- EXIF orientation is applied (all eight values); of an animation the first frame is taken.
- Transparency of any kind (RGBA, LA, PA, palettes, colour keys) is blended on white, in proportion to alpha.
- 16-bit grey is scaled from its whole range, 0..65535, to 0..255. 32-bit integers (mode I) are scaled the same way where they
  fit in 16 bits (PGM, older PNG readers); floats (mode F) are taken as 0..1 or 0..255 where they fit. All else is stretched from
  its own minimum and maximum. Nothing is clipped.
- CMYK, YCbCr, HSV and LAB are converted by Pillow; CMYK JPEGs hold inverted values, as Adobe writes them. ICC profiles are kept
  beside re-encoded RGB pictures, never applied.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

IMAGE_REASONS = ("not_an_image", "truncated", "too_small", "too_many_pixels", "aspect_ratio", "decode")

_KEPT_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GRID, _GROWS, _UNSURE, _FLAT = 6, 3, 5, 16  # cells a side, least step in grey, places to turn, largest step of a flat picture
_DRAFT_OVERSAMPLING = 2  # a JPEG is decoded at no less than twice the wanted size, so that the bicubic filter still decides


class BadImage(Exception):
    """A picture that cannot be used: `reason` is one of IMAGE_REASONS, `detail` says what exactly was wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in IMAGE_REASONS
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PreparedImage:
    """A verified picture, encoded as JPEG, PNG or WebP: size in pixels as seen (after turning), `mode` as the source has it."""

    data: bytes
    extension: str
    width: int
    height: int
    mode: str
    looks: tuple[int, ...] = ()  # see `looks_of`; empty where nobody asked


def looks_like_image(head: bytes) -> bool:
    """Whether the first bytes (at least 16) of a file are those of a common picture format."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypheic")


def decode_image(data: bytes, shorter: int = 0) -> Image.Image:
    """Return the picture as RGB, 8 bits a channel, by the rules above; raise BadImage.

    With `shorter` a JPEG is decoded at a half, quarter or eighth of its size (libjpeg's scaled inverse transform, which reads
    fewer coefficients) where both sides stay at least that long. Depends on nothing but the two arguments.
    """
    image = _open(data)
    if shorter and image.format == "JPEG":
        image.draft(None, (shorter, shorter))
    _load(image)
    return _turn(_flatten(image), _orientation(image)).convert("RGB")  # a copy, which holds nothing of the file any more


def prepare_image(
    data: bytes, *, image_size: int, min_side: int, max_pixels: int, max_aspect: float, with_looks: bool = False
) -> PreparedImage:
    """Verify a picture by decoding it whole; keep its bytes where nothing has to change, else encode it anew.

    The size is checked in the header, before any pixel is decoded (Pillow's own limit of 179 million pixels holds besides
    `max_pixels`). `image_size` > 0 shrinks the shorter side to that many pixels (bicubic, antialiased, aspect kept); pictures are
    never enlarged. JPEG, PNG and WebP stay as they are if they hold one upright 8-bit RGB or grey frame of the wanted size. Else
    photos (JPEG, AVIF, lossy WebP) become JPEG of quality 95 without chroma subsampling, all others PNG. Raises BadImage.
    """
    image = _open(data)
    source_format, mode = image.format or "", image.mode
    _check_size(image.size, min_side, max_pixels, max_aspect)
    shrink = 0 < image_size < min(image.size)
    if shrink and source_format == "JPEG":
        image.draft(None, (_DRAFT_OVERSAMPLING * image_size,) * 2)
    _load(image)
    orientation = _orientation(image)
    if not shrink and _can_stay(image, data, orientation):
        return PreparedImage(data, _KEPT_FORMATS[source_format], *image.size, mode, looks_of(image) if with_looks else ())
    flat = _turn(_flatten(image), orientation)
    if shrink:
        flat = _shrink(flat, image_size)
    encoded, extension = _encode(flat, photo=_is_photo(source_format, data), profile=_profile(image))
    return PreparedImage(encoded, extension, *flat.size, mode, looks_of(flat) if with_looks else ())


def looks_of(image: Image.Image) -> tuple[int, ...]:
    """Return what the picture looks like as 64 bits (of a difference hash), then what it nearly looks like; () where it is flat.

    The difference hash says where brightness grows, to the right and downwards, between the cells of a 7 x 7 grid. A copy of
    another size or quality differs in the few places that are near the threshold: all ways to turn the nearest are given.
    """
    grey = np.asarray(image.convert("L").resize((_GRID + 1, _GRID + 1), Image.Resampling.BOX), dtype=np.int16)
    steps = np.concatenate([np.diff(grey, axis=1)[:_GRID].ravel(), np.diff(grey, axis=0)[:, :_GRID].ravel()])
    if np.abs(steps).max() < _FLAT:
        return ()
    bits = int.from_bytes(np.packbits(steps > _GROWS).tobytes(), "big")
    found = [bits]
    places = 8 * -(-len(steps) // 8)  # packed from the left, to whole bytes
    for unsure in np.argsort(np.abs(steps - _GROWS - 0.5), kind="stable")[:_UNSURE].tolist():
        found += [other ^ (1 << (places - 1 - unsure)) for other in found]
    return tuple(_hash64(other) for other in found)


def _hash64(value: int) -> int:
    return int.from_bytes(hashlib.blake2b(value.to_bytes(16, "big"), digest_size=8).digest(), "big")


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked by the caller's own limit
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if looks_like_image(data[:16]):
            raise BadImage("truncated", f"the header is broken or cut ({len(data)} bytes)") from None
        raise BadImage("not_an_image", f"{len(data)} bytes starting with {data[:8]!r}") from None
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from None
    except Exception as error:  # Pillow's readers raise nearly every kind on hostile bytes
        raise _undecodable(error) from None
    if image.format == "EPS":  # Pillow would hand it to Ghostscript, a program
        raise BadImage("not_an_image", "PostScript is not decoded")
    return image


def _check_size(size: tuple[int, int], min_side: int, max_pixels: int, max_aspect: float) -> None:
    width, height = size
    shown = f"{width}x{height} pixels"
    if width * height > max_pixels:
        raise BadImage("too_many_pixels", f"{shown}, at most {max_pixels} are allowed")
    if min(size) < min_side:
        raise BadImage("too_small", f"{shown}, the shorter side must have at least {min_side}")
    if max(size) > max_aspect * min(size):
        raise BadImage("aspect_ratio", f"{shown}, at most {max_aspect:g} to 1 is allowed")


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above; a PNG's broken chunk is a SyntaxError
        raise _undecodable(error) from None


def _undecodable(error: Exception) -> BadImage:
    text = str(error).lower()
    cut = "truncated" in text or "not enough image data" in text or isinstance(error, EOFError)
    return BadImage("truncated" if cut else "decode", f"{type(error).__name__}: {error}")


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of a loaded picture (Pillow turns TIFF and AVIF itself while loading); 1 where EXIF is broken."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return value if value in _TURNS else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _can_stay(image: Image.Image, data: bytes, orientation: int) -> bool:
    deep_png = image.format == "PNG" and data[24] > 8  # the header's bit depth
    return (
        image.format in _KEPT_FORMATS
        and image.mode in ("RGB", "L")
        and not image.has_transparency_data
        and orientation == 1
        and getattr(image, "n_frames", 1) == 1
        and not deep_png
    )


def _flatten(image: Image.Image) -> Image.Image:
    """Convert any mode to L or RGB, transparency blended on white."""
    try:
        if image.mode.startswith("I") or image.mode == "F":
            return _scale_grey(image)
        if image.has_transparency_data:
            rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
        mode = "L" if image.mode in ("1", "L") else "RGB"
        return image if image.mode == mode else image.convert(mode)  # `convert` makes a copy also where there is nothing to do
    except (ValueError, OSError) as error:
        raise BadImage("decode", f"mode {image.mode}: {error}") from None


def _scale_grey(image: Image.Image) -> Image.Image:
    """Scale grey of 16 or 32 bits to L, by arithmetic in float32 over [height, width]."""
    values: NDArray[np.float32] = np.nan_to_num(np.asarray(image).astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and low >= 0 and high <= 65535):
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    grey = np.rint((values - low) * (255.0 / ((high - low) or 1.0)))
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _shrink(image: Image.Image, shorter: int) -> Image.Image:
    from drrho_clip.data.resize import resized  # here, as torch takes a second to load and many pictures keep their size

    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    pixels = resized(image, (width, height)).permute(1, 2, 0)
    return Image.frombytes(image.mode, (width, height), pixels.numpy().tobytes())


def _is_photo(source_format: str, data: bytes) -> bool:
    return source_format in ("JPEG", "MPO", "AVIF") or (source_format == "WEBP" and b"VP8L" not in data)


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and image.mode in ("RGB", "RGBA", "P") else None


def _encode(image: Image.Image, *, photo: bool, profile: bytes | None) -> tuple[bytes, str]:
    image.info.clear()  # no orientation, comment or colour key may survive the change of pixels
    buffer = io.BytesIO()
    if photo:
        image.save(buffer, "JPEG", quality=95, subsampling=0, icc_profile=profile)
    else:
        image.save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue(), "jpg" if photo else "png"

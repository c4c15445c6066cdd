"""From the bytes of a stranger's image file to a picture that is small enough to work with. No torch.

A file of a few hundred bytes may ask for gigabytes. So before Pillow sees one:

* its first bytes must be those of one of `STARTS`, and no other reader of Pillow is ever asked;
* its headers are walked through here: numbers of chunks, tags and scans are limited, and what is not needed for the
  picture (EXIF, colour profiles, comments, further frames) is cut away unread, but for the camera's orientation;
* the memory that decoding will take is reckoned from the header, and refused above `MOST_MEMORY`.

Then the picture is converted and shrunk strip by strip, and only then turned. Whatever a library raises on the way is
said as a `DataError`.
"""

import contextlib
import functools
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import DataError

MOST_PIXELS = 40_000_000

MOST_SIDE = 200_000  # pixels: rows and columns cost time, however narrow

MOST_BYTES = 50_000_000  # of a file

MOST_MEMORY = 190_000_000  # bytes beside what the process has already: the file, what is cut out of it, the pixels

MOST_PARTS = 20_000  # chunks of a PNG, segments of a JPEG, frames of a GIF that are counted

MOST_VALUES = 100_000  # of a number's tag in a TIFF, such as the offsets of its strips: Python holds each of them

MOST_SCANS = 32  # of a JPEG: each goes over the whole picture

AT_ONCE = 2_000_000  # pixels that are converted at a time

ENOUGH = 1024  # pixels of the longer side that shrinking leaves at least

KINDS = "Take a PNG, JPEG, WebP, BMP, TIFF or GIF file."

ORIENTATION, SUB_FOLDERS = 0x0112, (0x8769, 0x8825, 0xA005)  # tags; of EXIF, GPS, interoperability


@dataclass(frozen=True)
class Header:
    """What was learned of a file: `content` is what Pillow gets."""

    content: bytes
    size: tuple[int, int] | None = None  # where it must be known before Pillow opens the file
    bytes_a_pixel: float | None = None  # while decoding; None: what the mode takes
    orientation: int = 1  # as in EXIF: 1 is upright
    frames: int = 1


@dataclass(frozen=True)
class Picture:
    """`image` is a `PIL.Image.Image` of mode L, LA, RGB or RGBA, upright, its longer side at least `ENOUGH` or as it
    was; `size` that of the file, upright; `extent` the same in pixels of `image`, whose last ones may lie partly
    outside of it; `notes` a sentence for each thing that was done."""

    image: Any
    size: tuple[int, int]
    extent: tuple[float, float]
    notes: tuple[str, ...]


def decode(content: bytes, shorter: int = 0) -> Picture:
    """The first frame, upright and in eight bits; shrunk where it is large, but its shorter side not below `shorter`.

    Raises `DataError` for what is no image, is damaged, or too large.
    """
    with _said("The file is no image that can be read.", KINDS):
        header = _header(content)
    with _said("The image is damaged ({error}).", "Save it again, or take another file."):
        return _decoded(header, shorter)


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height, upright, as the header says; nothing is decoded. Raises `DataError` as `decode`."""
    from PIL import Image

    with _said("The file is no image that can be read.", KINDS):
        header = _header(content)
        if header.size is not None:
            _check_size(header, header.size, header.bytes_a_pixel or 4)
        image = Image.open(io.BytesIO(header.content), formats=[_kind(header.content)])
        _check_size(header, image.size, header.bytes_a_pixel or _bytes_a_pixel(image.mode))
        return (image.size[1], image.size[0]) if _orientation(header, image) >= 5 else image.size


def _orientation(header: Header, image: Any) -> int:
    noted = image.format in ("PNG", "WEBP") and "exif" in image.info
    return _orientation_of(image.info["exif"]) if noted else header.orientation


def _factor(size: tuple[int, int], shorter: int) -> int:
    """How many pixels become one before any other work."""
    factor = max(size) // ENOUGH
    return max(1, min(factor, min(size) // shorter) if shorter else factor)


@contextlib.contextmanager
def _said(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError("The image takes more memory than there is.", "Shrink it, or free memory.") from None
    except Exception as error:  # what the readers of a damaged file raise is not known: struct.error, KeyError, …
        reason = f"{error}"[:200] or type(error).__name__
        raise DataError(what.format(error=reason) if "{error}" in what else what, remedy) from None


def _decoded(header: Header, shorter: int) -> Picture:
    from PIL import Image

    if header.size is not None:
        _check_size(header, header.size, header.bytes_a_pixel or 4)
    image = Image.open(io.BytesIO(header.content), formats=[_kind(header.content)])
    _check_size(header, image.size, header.bytes_a_pixel or _bytes_a_pixel(image.mode))
    size, notes = image.size, []
    if header.frames > 1:
        notes.append(f"The first of {header.frames:,}{' or more' if header.frames == MOST_PARTS else ''} frames.")
    factor = _factor(size, shorter)
    if image.format == "JPEG" and factor > 1:
        image.draft(None, (max(1, size[0] // factor), max(1, size[1] // factor)))  # decoded to an eighth at the least
    image.load()
    orientation = _orientation(header, image)
    if image.mode.startswith("I"):
        notes.append("16 bits a pixel scaled to 8.")
    extent, image = _of_blocks(image.size, shorter), _small(image, shorter)
    if orientation != 1:
        notes.append("Turned upright, as the camera noted (EXIF).")
        image = _turned(image, orientation)
        if orientation >= 5:
            size, extent = (size[1], size[0]), (extent[1], extent[0])
    return Picture(image, size, extent, tuple(notes))


def _check_size(header: Header, size: tuple[int, int], bytes_a_pixel: float) -> None:
    pixels, remedy = size[0] * size[1], f"Shrink it to {MOST_PIXELS // 10**6} megapixels or fewer."
    if pixels > MOST_PIXELS:
        raise DataError(f"The image has {pixels / 1e6:.0f} megapixels ({size[0]:,} × {size[1]:,}).", remedy)
    if max(size) > MOST_SIDE:
        raise DataError(f"The image is {max(size):,} pixels long.", f"Cut it to {MOST_SIDE:,} pixels or fewer.")
    if not pixels:
        raise DataError("The image has no pixels.", "Take another file.")
    if (need := 2 * len(header.content) + pixels * bytes_a_pixel) > MOST_MEMORY:
        raise DataError(
            f"The image of {size[0]:,} × {size[1]:,} pixels takes {need / 1e6:,.0f} MB to decode.",
            "Shrink it, or save it as a baseline JPEG, which takes the least.",
        )


def _bytes_a_pixel(mode: str) -> int:
    """As Pillow keeps them: three channels take four bytes."""
    return {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}.get(mode, 4)


def _turned(image: Any, orientation: int) -> Any:
    from PIL.Image import Transpose

    turns = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM}
    turns |= {5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}
    return image.transpose(turns[orientation])


def _blocks(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height of the blocks of pixels that become one."""
    factor = _factor(size, shorter)
    if factor < 2 or size[0] * size[1] <= AT_ONCE:
        return 1, 1
    return min(factor, size[0]), min(factor, size[1])


def _of_blocks(size: tuple[int, int], shorter: int) -> tuple[float, float]:
    across, down = _blocks(size, shorter)
    return size[0] / across, size[1] / down


def _small(image: Any, shorter: int) -> Any:
    """In one of the four modes; averaged over blocks of whole pixels where it is large."""
    from PIL import Image

    width, height = image.size
    across, down = _blocks(image.size, shorter)
    if (across, down) == (1, 1):
        return _plain(image)
    rows = max(1, AT_ONCE // (width * down)) * down
    small = None
    for top in range(0, height, rows):
        strip = _plain(image.crop((0, top, width, min(top + rows, height)))).reduce((across, down))
        if small is None:
            small = Image.new(strip.mode, (strip.width, -(-height // down)))
        small.paste(strip, (0, top // down))
    return small


def _plain(image: Any) -> Any:
    """A part of a picture in mode L, LA, RGB or RGBA, whatever its own is."""
    from PIL import Image

    mode = image.mode
    if mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if mode in ("L", "RGB") and "transparency" in image.info:
        return image.convert("LA" if mode == "L" else "RGBA")
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if mode in ("1", "La", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"):
        return image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))
    if mode == "LAB":
        return _from_lab()(image)
    if mode == "F":
        raise DataError("The image has floating-point pixels, whose range nobody can know.", "Save it as an 8-bit PNG.")
    if not mode.startswith("I"):
        raise DataError(f"The image has pixels of the kind {mode!r:.20}.", "Save it as an 8-bit PNG.")
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise DataError("The image has more than 16 bits a pixel.", "Save it as an 8-bit PNG.")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


@functools.cache
def _from_lab() -> Callable:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return lambda image: ImageCms.applyTransform(image, transform)


# -- headers


def _kind(content: bytes) -> str:
    for start, kind in STARTS:
        if content.startswith(start) and (kind != "WEBP" or content[8:12] == b"WEBP"):
            return kind
    raise DataError("The file is no image that can be read.", KINDS)


def _header(content: bytes) -> Header:
    if len(content) > MOST_BYTES:
        raise DataError(
            f"The file has {len(content) / 1e6:,.0f} MB.", f"Take one of {MOST_BYTES / 1e6:.0f} MB or less."
        )
    return READERS[_kind(content)](content)


def _png(content: bytes) -> Header:
    """Only what the picture needs; `acTL`, which says that it moves, is read for the number of frames alone."""
    kept, at, frames = [content[:8]], 8, 1
    for _ in range(MOST_PARTS):
        if at + 12 > len(content):
            break  # cut off: Pillow says how
        length, name = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if name == b"acTL" and length == 8:
            frames = max(1, struct.unpack_from(">I", content, at + 8)[0])
        elif name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND") or (name == b"eXIf" and length < 1 << 16):
            kept.append(content[at:end])
        at = end
        if name == b"IEND":
            break
    else:
        raise DataError("The image is damaged (it has too many chunks).", "Save it again, or take another file.")
    return Header(b"".join(kept), frames=min(frames, MOST_PARTS))


def _jpeg(content: bytes) -> Header:
    kept, at, orientation, size, components, progressive = [content[:2]], 2, 1, None, 0, False
    for _ in range(MOST_PARTS):
        while content[at : at + 2] == b"\xff\xff":
            at += 1
        marker, length = struct.unpack_from(">HH", content, at)
        segment = content[at : at + 2 + length]
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width, components = struct.unpack_from(">HHB", segment, 5)
            size, progressive = (width, height), marker in (0xFFC2, 0xFFC6, 0xFFCA, 0xFFCE)
        if marker == 0xFFE1 and segment[4:10] == b"Exif\0\0":
            orientation = _orientation_of(segment[4:])
        elif not 0xFFE1 <= marker <= 0xFFEF or marker == 0xFFEE:  # no further application's, but Adobe's colours
            if marker != 0xFFFE:  # a comment
                kept.append(segment)
        at += 2 + length
        if marker == 0xFFDA:
            several = progressive or segment[4] < components
            break
    else:
        raise DataError("The image is damaged (it has too many segments).", "Save it again, or take another file.")
    scans = content.count(b"\xff\xda", at)
    if scans > MOST_SCANS:
        raise DataError(f"The image is damaged (it has {scans:,} scans).", "Save it again, or take another file.")
    kept.append(content[at:])
    # Where the scans are several, the coefficients of the whole picture are held, of two bytes each.
    return Header(b"".join(kept), size, 2.5 * components if several else 0.5, orientation)


def _tiff(content: bytes) -> Header:
    """The first folder of tags, with the ones renamed that point to further folders, and the orientation."""
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", content, 2)[0] == 43
    start = struct.unpack_from(order + "Q", content, 8)[0] if big else struct.unpack_from(order + "I", content, 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), content, start)[0]
    if count > 4096:
        raise DataError("The image is damaged (it has too many tags).", "Save it again, or take another file.")
    first, width, entry = start + (8 if big else 2), 20 if big else 12, order + ("HHQ" if big else "HHI")
    changed, orientation = bytearray(content), 1
    for at in range(first, first + count * width, width):
        tag, kind, values = struct.unpack_from(entry, content, at)
        if kind not in (1, 2, 6, 7) and values > MOST_VALUES:
            raise DataError(f"The image has a tag of {values:,} numbers.", "Save it again, or take another file.")
        if tag == ORIENTATION:
            orientation = struct.unpack_from(order + "H", content, at + width - (8 if big else 4))[0]
        if tag == ORIENTATION or tag in SUB_FOLDERS:
            struct.pack_into(order + "H", changed, at, 0xFDE8)  # a private tag, which means nothing
    more = struct.unpack_from(order + ("Q" if big else "I"), content, first + count * width)[0]
    return Header(
        bytes(changed),
        bytes_a_pixel=8,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        frames=2 if more else 1,
    )


def _gif(content: bytes) -> Header:
    """The first frame, with its transparency; the others are counted."""
    at, frames, graphics, first = 13, 0, b"", b""
    if content[10] & 0x80:
        at += 3 << (content[10] & 7) + 1
    start = at

    def blocks(at: int) -> int:
        while content[at]:
            at += 1 + content[at]
        return at + 1

    with contextlib.suppress(IndexError):  # cut off: Pillow says so of the first frame, and the others do not matter
        while content[at] != 0x3B and frames < MOST_PARTS:
            if content[at] == 0x21:
                end = blocks(at + 2)
                if content[at + 1] == 0xF9 and not frames:
                    graphics = content[at:end]
            else:
                data = at + 10 + (3 << (content[at + 9] & 7) + 1 if content[at + 9] & 0x80 else 0) + 1
                frames += 1
                if frames == 1:
                    first = content[at:]
                end = blocks(data)
                if frames == 1:
                    first = content[at:end]
            at = end
    return Header(content[:start] + graphics + first + b";", bytes_a_pixel=4, frames=max(1, frames))


def _webp(content: bytes) -> Header:
    """Its decoder makes two canvases when it is opened, so the size must be looked at before."""
    chunk, size = content[12:16], None
    if chunk == b"VP8X":
        low = [int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27)]
        size = (low[0], low[1])
    elif chunk == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif chunk == b"VP8 ":
        size = struct.unpack_from("<HH", content, 26)
        size = (size[0] & 0x3FFF, size[1] & 0x3FFF)
    frames = content.count(b"ANMF") if chunk == b"VP8X" and content[20] & 2 else 1
    return Header(content, size, 16, frames=min(max(1, frames), MOST_PARTS))


def _bmp(content: bytes) -> Header:
    return Header(content)


STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)

READERS = {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp, "BMP": _bmp, "TIFF": _tiff, "GIF": _gif}


def _orientation_of(exif: object) -> int:
    """The orientation that EXIF notes, 1 where it says none, or is broken: nobody's picture is refused for that."""
    try:
        data = bytes(exif).removeprefix(b"Exif\0\0")  # type: ignore[call-overload]
        order = {b"II": "<", b"MM": ">"}[data[:2]]
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", data, at)
            if tag == ORIENTATION:
                return value if (kind, values) == (3, 1) and 1 <= value <= 8 else 1
    except (struct.error, KeyError, TypeError, ValueError):
        pass
    return 1

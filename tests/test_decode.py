"""From a file's bytes to an image of a data set's kind: formats, modes, shapes, bombs."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.datasets.decode import ImageForm, decode
from engine.datasets.raster import MOST_PIXELS, STARTS, size_of
from engine.errors import DataError
from tests.helpers import here

ROOT = Path(__file__).parents[1]
COLOUR = ImageForm(8, 8, 3)
GREY = ImageForm(8, 8, 1)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def blocks(size=(8, 8)) -> Image.Image:
    """Four flat quarters: red, green, blue and grey, so that turning and cropping show."""
    picture = Image.new("RGB", size, (128, 128, 128))
    half = (size[0] // 2, size[1] // 2)
    picture.paste((255, 0, 0), (0, 0, *half))
    picture.paste((0, 255, 0), (half[0], 0, size[0], half[1]))
    picture.paste((0, 0, 255), (0, half[1], half[0], size[1]))
    return picture


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels_as_they_are(kind):
    image = decode(encoded(blocks(), kind, **LOSSLESS[kind]), COLOUR).image
    assert np.array_equal(image, np.asarray(blocks()))


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_formats_come_near(kind):
    picture = Image.new("RGB", (8, 8), (200, 40, 90))
    assert np.abs(decode(encoded(picture, kind), COLOUR).image.astype(int) - (200, 40, 90)).max() < 12


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "ICNS", "DDS", "PDF", "EPS", "AVIF", "JPEG2000", "PPM"])
def test_no_other_decoder_is_run(kind):
    assert kind not in {kind for _, kind in STARTS}
    with pytest.raises(DataError, match="no image that can be read"):
        decode(encoded(Image.new("RGB", (32, 32)), kind), COLOUR)


def lab() -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(Image.new("RGB", (8, 8), (200, 40, 90)), transform)


MODES = {
    "1": (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
    "L": (Image.new("L", (8, 8), 77), "PNG", (77, 77, 77)),
    "LA over white": (Image.new("LA", (8, 8), (0, 0)), "PNG", (255, 255, 255)),
    "P": (Image.new("RGB", (8, 8), (200, 40, 90)).quantize(4), "PNG", (200, 40, 90)),
    "RGBA half over white": (Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "PNG", (204, 204, 204)),
    "I;16": (Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), "PNG", (77, 77, 77)),
    "I;16 TIFF": (Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), "TIFF", (77, 77, 77)),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    "CMYK JPEG": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
    "YCbCr": (Image.new("RGB", (8, 8), (200, 40, 90)).convert("YCbCr"), "TIFF", (200, 40, 90)),
    "LAB": (lab(), "TIFF", (200, 40, 90)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_eight_bits_and_opaque(name):
    picture, kind, expected = MODES[name]
    image = decode(encoded(picture, kind), COLOUR).image
    assert np.abs(image.astype(int) - expected).max() <= 3, image[0, 0]


def test_transparency_in_a_palette_and_as_one_colour_is_seen():
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 40, 90])
    for content in (
        encoded(palette, transparency=1),
        encoded(Image.new("RGB", (8, 8), (200, 40, 90)), transparency=(200, 40, 90)),
        encoded(palette, "GIF", transparency=1),
    ):
        assert (decode(content, ImageForm(8, 8, 3, ground=(1, 2, 3))).image == (1, 2, 3)).all()


def test_the_ground_lies_under_what_is_transparent_and_beside_what_is_padded():
    content = encoded(Image.new("RGBA", (16, 8), (0, 0, 0, 0)))
    decoded = decode(content, ImageForm(8, 8, 3, "pad", (10, 20, 30)))
    assert (decoded.image == (10, 20, 30)).all() and len(decoded.notes) == 3
    assert (decode(content, ImageForm(8, 8, 1, "pad", (255, 0, 0))).image == 76).all()  # luma of red


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(8, 8), (64, 32), (400, 200)])
def test_exif_turns_upright_whatever_the_size(orientation, size):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(blocks(size), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert orientation == 1 or upright.tobytes() != blocks(size).tobytes()
    assert size_of(content) == upright.size
    form = ImageForm(8, 8, 3, "stretch")
    assert np.array_equal(decode(content, form).image, decode(encoded(upright), form).image)


def test_damaged_exif_is_said_and_the_image_taken():
    content = encoded(blocks(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    decoded = decode(content, COLOUR)
    assert np.array_equal(decoded.image, np.asarray(blocks()))
    content = encoded(blocks(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert np.array_equal(decode(content, COLOUR).image, np.asarray(blocks()))


def test_fits_stretch_crop_and_pad_on_rectangles():
    picture = Image.new("RGB", (40, 20), (0, 0, 0))
    picture.paste((255, 255, 255), (10, 0, 30, 20))  # the middle half
    content = encoded(picture)
    cropped = decode(content, ImageForm(10, 10, 1, "crop")).image
    assert (cropped > 235).all()
    padded = decode(content, ImageForm(10, 10, 1, "pad", (255, 0, 0))).image[..., 0]
    assert (padded[:2] == 76).all() and (padded[-2:] == 76).all() and padded[4, 0] < 10 and padded[4, 5] > 245
    stretched = decode(content, ImageForm(10, 10, 1, "stretch")).image[..., 0]
    assert (stretched[:, :2] < 10).all() and (stretched[:, 4:6] > 245).all()
    assert decode(content, ImageForm(6, 12, 1)).image.shape == (6, 12, 1)


def test_shrinking_agrees_with_pillows_own():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (301, 455, 3), np.uint8)).resize((910, 602), Image.Resampling.BICUBIC)
    for size in ((32, 32), (30, 17)):
        ours = decode(encoded(noise), ImageForm(size[1], size[0], 3, "stretch")).image.astype(int)
        theirs = np.asarray(noise.resize(size, Image.Resampling.LANCZOS), int)
        assert np.abs(ours - theirs).mean() < 1.5 and np.abs(ours - theirs).max() < 12


def test_a_crop_of_a_long_picture_keeps_its_detail():
    """Shrinking by the longer side would leave 200 of 600 rows, where 512 are asked for."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 4000), np.uint8))
    theirs = np.asarray(noise.crop((1700, 0, 2300, 600)).resize((512, 512), Image.Resampling.LANCZOS), int)
    ours = decode(encoded(noise), ImageForm(512, 512, 1)).image[..., 0].astype(int)
    assert np.abs(ours - theirs)[4:-4, 4:-4].mean() < 3


def test_blocks_that_lie_partly_outside_shift_nothing():
    """1,030 columns in blocks of 19 are 54.2 of them, not 55."""
    steps = np.linspace(0, 255, 1030).astype(np.uint8)
    picture = Image.fromarray(np.repeat(steps[None], 20_000, 0))
    ours = decode(encoded(picture, compress_level=1), ImageForm(8, 8, 1, "stretch")).image[0, :, 0].astype(int)
    assert np.abs(ours - np.asarray(picture.resize((8, 8), Image.Resampling.LANCZOS), int)[0]).max() <= 2


def test_bands_leave_no_seams():
    """A picture of several bands, whose height is no multiple of the factors, shrinks as in one piece."""
    rows = np.linspace(0, 255, 5003).astype(np.uint8)
    picture = Image.fromarray(np.repeat(rows[:, None], 1003, 1))
    image = decode(encoded(picture), ImageForm(64, 64, 1, "stretch")).image[:, 0, 0].astype(int)
    assert (np.diff(image) >= 3).all() and (np.diff(image) <= 5).all()


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "no image"),
        (b"not an image", "no image"),
        (encoded(blocks())[:60], "damaged"),
        (encoded(Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64, 3), np.uint8)))[:-900], "damaged"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"), "more than 16 bits"),
        (lambda: encoded(Image.new("1", (MOST_PIXELS // 1000 + 1, 1000))), "megapixels"),
        pytest.param(
            lambda: encoded(Image.new("1", (20_000, 20_000))), "exceeds|megapixels", marks=pytest.mark.slow, id="bomb"
        ),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>", "no image"),
    ],
)
def test_what_is_no_image_or_too_much_is_said(content, what):
    with pytest.raises(DataError, match=what):
        decode(here(content), COLOUR)


MEMORY = """
import pathlib, resource, sys
from PIL import Image, PngImagePlugin
from engine.datasets.decode import ImageForm, decode
content = pathlib.Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(content, ImageForm(28, 28, 3, sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(
    "size, mode",
    [
        ((20, 60_000), "1"),  # 319 bytes, which once took 3.8 GB: padded to a square before they were shrunk
        ((400, 100_000), "1"),
        ((100_000, 400), "1"),
        ((1, 65_000), "L"),
        ((6000, 6600), "P"),
    ],
)
def test_memory_follows_the_files_pixels_and_not_its_shape(tmp_path, size, mode, fit):
    options = {"transparency": 0} if mode == "P" else {}
    (tmp_path / "x.png").write_bytes(encoded(Image.new(mode, size), **options))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.png"), fit]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 75_000  # kB; the file itself decodes to 40 MB at most


def test_sixteen_bits_cover_the_same_range():
    values = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    image = decode(encoded(Image.fromarray(values)), GREY).image[..., 0]
    assert np.array_equal(image, np.round(values / 257)) and image[0, 0] == 0 and image[-1, -1] == 255


def test_grey_is_luma_and_said():
    decoded = decode(encoded(Image.new("RGB", (8, 8), (255, 0, 0))), GREY)
    assert (decoded.image == 76).all() and "luma" in " ".join(decoded.notes)
    assert "luma" not in " ".join(decode(encoded(Image.new("RGB", (8, 8), (9, 9, 9))), GREY).notes)

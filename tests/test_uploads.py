"""Images of one's own: known answers of the preparation, bad files, and the scores of the same test image."""

import io
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import streamlit as st
from PIL import Image, ImageOps

from engine import config as configs
from engine.analysis import logits as logit_maths
from engine.analysis import target_view, trust
from engine.analysis import what_if as what_ifs
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, DataError, IntegrityError
from engine.jobs import execute as work
from engine.jobs import predict
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import run as runs
from engine.runs import uploads
from engine.targets import Target, UploadedImage
from tests.helpers import ROOT, said, show, sound
from tests.made_up import SMALL

GREY, COLOUR = (28, 28, 1), (28, 28, 3)


def encoded(image: Image.Image, kind: str = "PNG", **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def test_an_image_of_the_data_sets_size_is_taken_as_it_is():
    image = np.random.default_rng(0).integers(256, size=GREY, dtype=np.uint8)
    prepared = uploads.prepare(uploads.png(image), GREY, invert=False)
    assert (prepared.image == image).all() and prepared.done == ("Taken as it is: 28 × 28, grey.",)
    assert (uploads.prepare(uploads.png(image), GREY, invert=True).image == 255 - image).all()


def test_sixteen_bits_are_scaled_and_not_cut():
    deep = np.linspace(0, 65535, 28 * 28).round().astype(np.uint16).reshape(28, 28)
    prepared = uploads.prepare(encoded(Image.fromarray(deep)), GREY, invert=False)
    assert np.abs(prepared.image[..., 0].astype(float) - deep / 257).max() <= 0.5 and "16 bits" in prepared.done[0]


@pytest.mark.parametrize("invert, ground", [(False, "black"), (True, "white")])
def test_transparent_parts_become_the_black_ground_of_the_data_set(invert, ground):
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[:, 14:, 3] = 255
    prepared = uploads.prepare(encoded(Image.fromarray(pixels)), GREY, invert)
    assert (prepared.image[:, :14] == 0).all() and (prepared.image[:, 14:] == (55 if invert else 200)).all()
    assert f"Transparent parts laid over {ground}." in prepared.done


def test_what_the_camera_turned_is_turned_back():
    upright = np.zeros((28, 28, 3), np.uint8)
    upright[:7] = 255  # light at the top
    turned = Image.fromarray(upright).rotate(90)  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    prepared = uploads.prepare(encoded(turned, "PNG", exif=exif), COLOUR, invert=False)
    assert (prepared.image == upright).all() and "EXIF" in prepared.done[0]
    small = np.asarray(Image.open(io.BytesIO(uploads.thumbnail(encoded(turned, "PNG", exif=exif)))))
    assert (small[..., :3] == upright).all()


def test_an_oblong_is_padded_and_shrunk_without_aliasing():
    stripes = np.zeros((280, 560), np.uint8)
    stripes[:, ::2] = 200
    prepared = uploads.prepare(encoded(Image.fromarray(stripes)), GREY, invert=False)
    assert prepared.image.shape == GREY and abs(float(prepared.image[9:19].mean()) - 100) < 3
    assert (prepared.image[:3] == 0).all() and (prepared.image[25:] == 0).all()
    assert [d.split()[0] for d in prepared.done] == ["Padded", "Resized"]


def test_colours_become_grey_and_a_palette_and_a_film_are_read():
    red = Image.new("RGB", (28, 28), (255, 0, 0))
    prepared = uploads.prepare(encoded(red), GREY, invert=False)
    assert set(prepared.image.ravel()) == {76} and "Colours turned to grey" in prepared.done[0]
    assert (uploads.prepare(encoded(red), COLOUR, invert=False).image == [255, 0, 0]).all()
    film = encoded(red.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (28, 28))])
    prepared = uploads.prepare(film, COLOUR, invert=False)
    assert "The first of 2 frames." in prepared.done and (prepared.image[..., 0] > 250).all()


def test_light_grounds_are_seen():
    assert uploads.is_light(encoded(Image.new("L", (50, 30), 240))) and not uploads.is_light(
        encoded(Image.new("L", (50, 30), 10))
    )


def test_fifty_megapixels_are_refused_before_they_are_decoded(monkeypatch):
    content = bytearray(encoded(Image.new("1", (1, 1)), "BMP"))
    content[18:26] = (10_000).to_bytes(4, "little") + (5_000).to_bytes(
        4, "little"
    )  # a header that claims 50 megapixels
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="50 megapixels") as caught:
        uploads.prepare(bytes(content), GREY, invert=False)
    assert "40 megapixels or fewer" in caught.value.remedy


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no image"),
        (b"<svg/>", "no image"),
        (b"PK\x03\x04 not an image", "no image"),
        (encoded(Image.effect_noise((64, 64), 90))[:-900], "damaged"),
        (encoded(Image.new("F", (28, 28)), "TIFF"), "floating-point"),
    ],
)
def test_files_that_are_no_images_are_named(content, message):
    with pytest.raises(DataError, match=message) as caught:
        uploads.prepare(content, GREY, invert=False)
    assert caught.value.remedy


# -- files that ask for much


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(*chunks: bytes) -> bytes:
    """A PNG of noise with further chunks behind its header."""
    whole = encoded(Image.fromarray(NOISE))
    return whole[:33] + b"".join(chunks) + whole[33:]


def film(kind: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (16, 16), (i % 256, i // 256, 7)) for i in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])


def exif_of_many_tags(size: int) -> bytes:
    """EXIF of 5,000 tags which all point to the same bytes: each reader that copies them takes gigabytes."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + i, 7, size, 60_010) for i in range(5000))
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(size)


def gif_with_comments(size: int) -> bytes:
    whole = encoded(Image.new("P", (16, 16)), "GIF")
    at = whole.index(b",", 13 + 6)
    return whole[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * (size // 256) + b"\0" + whole[at:]


def tiff_with_values(count: int, tag: int = 273) -> bytes:
    """A TIFF whose tag holds so many numbers."""
    entries = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries = sorted([*entries, (tag, 4, count, 200), (279, 4, 1, 16)])
    folder = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return (b"II*\0\x08\0\0\0" + folder).ljust(200, b"\0") + b"\x10\0\0\0" * count


LARGE = {
    "1 bit, 20 × 60,000": lambda: encoded(Image.new("1", (20, 60_000))),
    "1 bit, 60,000 × 20": lambda: encoded(Image.new("1", (60_000, 20))),
    "1 bit, 400 × 100,000": lambda: encoded(Image.new("1", (400, 100_000))),
    "1 × 40 million": lambda: encoded(Image.new("1", (1, 40_000_000))),
    "1 bit TIFF, 20 × 60,000": lambda: encoded(Image.new("1", (20, 60_000)), "TIFF", compression="group4"),
    "40 MP in colour": lambda: encoded(Image.new("RGB", (8000, 5000), (9, 99, 199))),
    "40 MP with transparency": lambda: encoded(Image.new("RGBA", (8000, 5000), (9, 99, 199, 9))),
    "40 MP palette": lambda: encoded(Image.new("P", (8000, 5000))),
    "40 MP, 16 bits": lambda: encoded(Image.fromarray(np.full((5000, 8000), 40_000, np.uint16))),
    "40 MP JPEG": lambda: encoded(Image.new("RGB", (8000, 5000), (9, 99, 199)), "JPEG"),
    "40 MP CMYK JPEG": lambda: encoded(Image.new("CMYK", (8000, 5000), (9, 99, 199, 9)), "JPEG"),
    "25 MP progressive JPEG": lambda: encoded(Image.new("RGB", (5000, 5000)), "JPEG", progressive=True, subsampling=0),
    "40 MP progressive JPEG": lambda: encoded(Image.new("RGB", (8000, 5000)), "JPEG", progressive=True, subsampling=0),
    "11 MP WebP": lambda: encoded(Image.new("RGBA", (3300, 3300), (9, 99, 199, 9)), "WEBP", lossless=True),
    "40 MP WebP": lambda: encoded(Image.new("RGB", (8000, 5000)), "WEBP"),
    "40 MP GIF": lambda: encoded(Image.new("P", (8000, 5000)), "GIF"),
    "20 MP TIFF": lambda: encoded(Image.new("RGB", (5000, 4000)), "TIFF", compression="tiff_lzw"),
    "40 MP CMYK TIFF": lambda: encoded(Image.new("CMYK", (8000, 5000)), "TIFF", compression="tiff_deflate"),
    "48 MB of noise": lambda: encoded(Image.fromarray(np.tile(NOISE, (62, 62, 1))), "BMP"),
    "GIF of 3,000 frames": lambda: film("GIF", 3000),
    "WebP of 500 frames": lambda: film("WEBP", 500),
    "TIFF of 500 pages": lambda: film("TIFF", 500),
    "moving PNG": lambda: film("PNG", 50),
    "EXIF of 25 GB": lambda: with_chunks(chunk(b"eXIf", exif_of_many_tags(5_000_000)[6:])),
    "JPEG EXIF": lambda: encoded(Image.fromarray(NOISE), "JPEG", exif=exif_of_many_tags(1000)),
    "texts": lambda: with_chunks(*40 * [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))]),
    "profile": lambda: with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(400_000_000)))),
    "a million chunks": lambda: with_chunks(*1_000_000 * [chunk(b"teSt", b"")]),
    "GIF comments": lambda: gif_with_comments(40_000_000),
    "2 million strips": lambda: tiff_with_values(2_000_000),
    "2 million numbers": lambda: tiff_with_values(2_000_000, 65_000),
    "JPEG of 9,000 scans": lambda: (
        encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)[:-2]
        + 9000 * (b"\xff\xda\0\x08\x01\x01\0\x01\x05\0\0")
        + b"\xff\xd9"
    ),
    "51 MB": lambda: encoded(Image.fromarray(NOISE)) + bytes(51_000_000),
}

MEASURED = """
import sys, time
from engine.errors import DataError
from engine.runs import uploads
content = open(sys.argv[1], "rb").read()
for work in (lambda: uploads.prepare(content, (28, 28, 1), False), lambda: uploads.thumbnail(content)):
    began, result = time.process_time(), "taken"
    try:
        work()
    except DataError as error:
        result = "refused"
    print(result, time.process_time() - began)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_no_file_takes_300_megabytes_or_three_seconds(tmp_path, name):
    """In a process of its own, whose high-water mark is its own: at f4cbe6d 20 × 60,000 took 3.8 GB."""
    (tmp_path / "file").write_bytes(LARGE[name]())
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *works, peak = done.stdout.splitlines()
    assert int(peak) * 1024 <= 300e6, done.stdout
    assert all(float(work.split()[1]) <= 3 for work in works), done.stdout
    refused = {"1 × 40 million", "40 MP progressive JPEG", "40 MP WebP", "40 MP CMYK TIFF", "51 MB", "a million chunks"}
    refused |= {"2 million strips", "2 million numbers", "JPEG of 9,000 scans"}
    assert {work.split()[0] for work in works} == {"refused" if name in refused else "taken"}, done.stdout


@pytest.mark.parametrize("size", [(20, 600), (600, 20), (400, 100_000), (3000, 2), (28, 29), (1, 1), (3, 2)])
def test_what_is_shrunk_first_is_where_padding_first_had_it(size):
    prepared = uploads.prepare(encoded(Image.new("L", size, 255)), GREY, invert=False).image[..., 0]
    scale = 28 / max(size)
    inner = [max(1, round(side * scale)) for side in size]
    expected = np.zeros((28, 28), np.uint8)
    left, top = (28 - inner[0]) // 2, (28 - inner[1]) // 2
    expected[top : top + inner[1], left : left + inner[0]] = 255
    assert np.array_equal(prepared, expected)


# -- files that are odd, or broken


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03",
        b"xx\0\x08\0\x02\x01\x12\0\x03",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",
    ],
)
def test_broken_exif_is_as_none(kind, exif):
    plain, content = encoded(Image.fromarray(NOISE), kind), encoded(Image.fromarray(NOISE), kind, exif=exif)
    assert (uploads.prepare(content, COLOUR, False).image == uploads.prepare(plain, COLOUR, False).image).all()
    assert uploads.thumbnail(content) == uploads.thumbnail(plain)
    assert not any("EXIF" in note for note in uploads.prepare(content, COLOUR, False).done)


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        prepared = uploads.prepare(encoded(Image.fromarray(NOISE), kind, exif=exif), COLOUR, False)
        assert (prepared.image == uploads.prepare(encoded(Image.fromarray(NOISE), kind), COLOUR, False).image).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.kron(NOISE[:4, :6], np.ones((7, 7, 1), np.uint8)))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    content = encoded(stored, kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    shown = Image.open(io.BytesIO(uploads.thumbnail(content))).convert("RGB")
    assert shown.size == expected.size and (np.asarray(shown) == np.asarray(expected.convert("RGB"))).all()
    assert ("EXIF" in uploads.prepare(content, GREY, False).done[0]) == (orientation != 1)


def colour_of(content: bytes) -> list[int]:
    image = uploads.prepare(content, COLOUR, invert=False).image
    assert uploads.thumbnail(content) and isinstance(uploads.is_light(content), bool)
    return image[14, 14].tolist()


@pytest.mark.parametrize(
    "image, kind, expected",
    [
        (Image.new("LAB", (28, 28), (137, 128, 128)), "TIFF", [128, 128, 128]),
        (Image.new("LAB", (28, 28), (50, 20, 20)), "TIFF", None),
        (Image.new("CMYK", (28, 28), (0, 255, 255, 0)), "TIFF", [255, 0, 0]),
        (Image.new("CMYK", (28, 28), (0, 255, 255, 0)), "JPEG", [254, 0, 0]),
        (Image.new("YCbCr", (28, 28), (76, 85, 255)), "TIFF", [254, 0, 0]),
        (Image.new("RGBX", (28, 28), (9, 99, 199, 0)), "TIFF", [9, 99, 199]),
        (Image.new("I;16", (28, 28), 25700), "TIFF", [100, 100, 100]),
        (Image.new("I;16B", (28, 28), 25700), "TIFF", [100, 100, 100]),
        (Image.new("I", (28, 28), 25700), "TIFF", [100, 100, 100]),
        (Image.new("I", (28, 28), 25700), "PNG", [100, 100, 100]),
        (Image.new("I", (28, 28), 70000), "TIFF", "more than 16 bits"),
        (Image.new("I", (28, 28), -1), "TIFF", "more than 16 bits"),
        (Image.new("F", (28, 28), 0.5), "TIFF", "floating-point"),
        (Image.new("1", (28, 28), 1), "TIFF", [255, 255, 255]),
        (Image.new("LA", (28, 28), (200, 0)), "PNG", [0, 0, 0]),
        (Image.new("PA", (28, 28), (1, 255)), "TIFF", None),
        (Image.new("RGBA", (28, 28), (255, 0, 0, 0)), "WEBP", [0, 0, 0]),
        (Image.new("RGBA", (28, 28), (255, 0, 0, 0)), "TIFF", [0, 0, 0]),
        (Image.new("RGBA", (28, 28), (255, 0, 0, 0)).quantize(), "PNG", [0, 0, 0]),
        (Image.new("RGBA", (28, 28), (255, 0, 0, 0)), "GIF", [0, 0, 0]),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_pixels_of_every_kind_are_converted_or_named(image, kind, expected):
    try:
        content = encoded(image, kind)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"Pillow writes no {kind} of {image.mode}")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            uploads.prepare(content, GREY, invert=False)
    else:
        colour = colour_of(content)
        assert expected is None or np.abs(np.subtract(colour, expected)).max() <= 2, colour


def test_transparency_of_a_grey_or_colour_png_is_seen():
    for image, transparent in (
        (Image.new("L", (28, 28), 200), 200),
        (Image.new("RGB", (28, 28), (9, 9, 9)), (9, 9, 9)),
    ):
        prepared = uploads.prepare(encoded(image, transparency=transparent), GREY, invert=False)
        assert not prepared.image.any() and "Transparent parts laid over black." in prepared.done


@pytest.mark.parametrize(
    "kind", ["ICO", "PPM", "TGA", "PCX", "SGI", "ICNS", "IM", "MSP", "XBM", "DDS", "JPEG2000", "EPS", "PDF"]
)
def test_formats_that_the_product_does_not_name_are_never_opened(kind, monkeypatch):
    image = Image.new("1" if kind in ("MSP", "XBM") else "RGB", (32, 32))
    content = encoded(image, kind)
    monkeypatch.setattr(Image, "open", lambda *arguments, **options: pytest.fail("opened"))
    with pytest.raises(DataError, match="no image that can be read"):
        uploads.prepare(content, GREY, invert=False)


def test_only_the_reader_of_the_files_own_kind_is_asked(monkeypatch):
    asked, opened = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: asked.append(k["formats"]) or opened(*a, **k))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        uploads.prepare(encoded(Image.fromarray(NOISE), kind), GREY, invert=False)
    assert asked == [["PNG"], ["JPEG"], ["WEBP"], ["BMP"], ["TIFF"], ["GIF"]]


@pytest.mark.slow
def test_hundreds_of_broken_files_end_in_a_picture_or_a_sentence():
    rng, exif = np.random.default_rng(7), Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(NOISE)
    seeds = [encoded(picture, kind, exif=exif) for kind in ("PNG", "JPEG", "TIFF", "WEBP")]
    seeds += [encoded(picture, "JPEG", progressive=True), encoded(picture, "TIFF", compression="tiff_lzw")]
    seeds += [encoded(picture, "TIFF", compression="jpeg"), encoded(picture, "BMP"), film("GIF", 3), film("WEBP", 3)]
    seeds += [encoded(picture.convert(mode), "TIFF") for mode in ("CMYK", "LAB", "P", "1", "YCbCr")]
    seeds += [encoded(picture.quantize(), "PNG"), film("TIFF", 3), film("PNG", 3), tiff_with_values(3)]
    outcomes = {"taken": 0, "refused": 0}
    for number in range(800):
        content = bytearray(seeds[number % len(seeds)])
        head = min(len(content), 400)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(head if rng.random() < 0.7 else len(content)))
            content[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
        if rng.random() < 0.2:
            content = content[: rng.integers(len(content))]
        try:
            prepared = uploads.prepare(bytes(content), COLOUR, invert=bool(number % 2))
            uploads.thumbnail(bytes(content))
            assert prepared.image.shape == COLOUR and prepared.image.dtype == np.uint8
            outcomes["taken"] += 1
        except DataError as error:
            assert error.remedy and len(str(error)) < 600
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes


# -- as targets


def own_target(image_id: str, label: int) -> str:
    return str(UploadedImage(image_id, label))


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> runs.Run:
    root = runs.outputs_root(tmp_path_factory.mktemp("own"))
    run = runs.Run.create(root, SMALL.replace(targets=("test:3",)))
    with run.lock():
        work.execute(run)
    return run


@pytest.mark.slow
def test_a_copy_of_a_test_image_has_its_scores_its_view_and_its_prediction(scored):
    dataset = dataset_registry.load("fashion-mnist-sample")
    image, label = dataset.test_images[3], int(dataset.test_labels[3])
    name = uploads.keep(scored, image)
    assert (uploads.read(scored, name) == image).all()
    own, other = (own_target(name, c) for c in (label, (label + 1) % 10))
    with scored.lock():
        work.execute(scored, Replay((own, "test:3", other), "loss", "disk"))
    targets = {t.name: t for t in scored.scores().targets()}
    scores = scored.scores().matrix(targets[own].score_set)
    assert (scores[0] == scores[1]).all() and not np.allclose(scores[0], scores[2], atol=1e-6)
    mine, same = (target_view.view(scored.manifest(), dataset, Target.parse(t)) for t in (own, "test:3"))
    assert (
        mine.values["loss"] == pytest.approx(same.values["loss"], abs=1e-6)
        and mine.predicted_label == same.predicted_label
    )
    asked = target_view.view(scored.manifest(), dataset, Target.parse(other))
    assert asked.true_label == (label + 1) % 10 and asked.values["loss"] == pytest.approx(
        -logit_maths.log_probabilities(scored.manifest().test_logits()[3])[asked.true_label], abs=1e-6
    )
    assert predict.logits(scored, image[None])[0] == pytest.approx(scored.manifest().test_logits()[3], abs=1e-5)
    assert f"{name[:6]} · {dataset.classes[label]}" in mine.title
    predicted = {w.name: w for w in what_ifs.predict(scored.manifest(), dataset, [1, 2])}
    assert predicted[own].change == predicted["test:3"].change
    # Retraining is judged on the test split: a validation leaves it out and says so, a what-if has no truth for it.
    with scored.lock():
        work.execute(scored, WhatIf.of([1, 2]))
        work.execute(scored, Validate(5, (0.01,), 0))
    actual = {t["name"]: t["actual"] for t in trust.what_ifs(scored.manifest())[0]["targets"]}
    assert actual[own] is None and actual["test:3"] is not None
    assert [t["name"] for t in trust.reports(scored.manifest())[0]["targets"]] == ["test:3"]
    assert any(
        own in e.get("text", "") and "not validated" in e["text"] for e in scored.events()[0] if e["kind"] == "note"
    )


def test_an_image_that_is_not_kept_or_has_changed_is_no_target(scored):
    manager = JobQueue(scored.root)
    with pytest.raises(IntegrityError, match="is missing"):
        manager.submit(scored.id, Replay(("image:0123456789abcdef:1",)))
    name = uploads.keep(scored, np.full(GREY, 9, np.uint8))
    (scored.path / "uploads" / f"{name}.png").write_bytes(uploads.png(np.zeros(GREY, np.uint8)))
    with pytest.raises(IntegrityError, match="has changed"):
        manager.submit(scored.id, Replay((own_target(name, 1),)))
    with pytest.raises(ConfigError, match="out of range"):
        manager.submit(scored.id, Replay((own_target(name, 10),)))
    for bad in ("../../x.png", "0123456789abcde", "0123456789ABCDEF"):
        with pytest.raises(ConfigError, match="no id"):
            uploads.read(scored, bad)
    with pytest.raises(ConfigError, match="kept with a trained run"):
        configs.check(configs.preset("sample").replace(targets=(own_target(name, 1),)), 6000, 1000, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, content, message, done",
    [
        ("no.png", b"not an image", "The file is no image that can be read.", ""),
        ("cut.png", encoded(Image.effect_noise((64, 64), 90))[:-900], "The image is damaged", ""),
        ("../../x.png", encoded(Image.new("L", (28, 28), 10)), "", "Taken as it is"),
        (
            "deep.png",
            encoded(Image.fromarray(np.full((28, 28), 257 * 30, np.uint16))),
            "",
            "16 bits a pixel scaled to 8.",
        ),
        ("glass.png", encoded(Image.new("RGBA", (28, 28), (9, 9, 9, 0))), "", "Transparent parts laid over"),
        ("<b>page</b>.tif", encoded(Image.new("RGB", (40, 28), (200, 9, 9)), "TIFF"), "", "Padded with"),
    ],
    ids=["none", "cut", "path", "16 bits", "alpha", "tiff"],
)
def test_what_is_uploaded_is_shown_or_named_and_the_page_goes_on(
    name, content, message, done, scored, tmp_path, monkeypatch
):
    root = tmp_path / "runs"
    shutil.copytree(scored.root, root)
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(root))
    st.cache_resource.clear()
    before = sorted(tmp_path.parent.rglob("*"))
    app = show("pages/Test_images.py", run=scored.id)
    app.file_uploader[0].upload(name, content, "image/png")
    sound(app.run())
    assert message in said(app) and done in "".join(m.value for m in app.markdown)
    assert any(e.proto.id.endswith("-ticks-status-explain") for e in app.get("bidi_component")), "not drawn to its end"
    assert ("Explain this image" in [b.label for b in app.button]) == (not message)
    assert sorted(tmp_path.parent.rglob("*")) == before, "nothing is kept before it is asked for"

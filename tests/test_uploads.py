"""Images of one's own: known answers of the preparation, bad files, and the scores of the same test image."""

import io
import shutil

import numpy as np
import pytest
import streamlit as st
from PIL import Image

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
from tests.helpers import said, show, sound
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
    with pytest.raises(IntegrityError, match="cannot be read"):
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
    assert (
        message in said(app)
        and (done in "".join(m.value for m in app.markdown))
        and "Explain these" in [s.value for s in app.subheader]
    )
    assert ("Explain this image" in [b.label for b in app.button]) == (not message)
    assert sorted(tmp_path.parent.rglob("*")) == before, "nothing is kept before it is asked for"

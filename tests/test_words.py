"""Scores in words, one unit a list; the glossary; pictures at whole multiples of their pixels."""

import ast
import math
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from engine.analysis import target_view
from engine.analysis import what_if as what_ifs
from engine.analysis.scale import Scale, exact, without_it
from tests.app import server
from tests.helpers import ROOT, idle, said, settled, show, shown
from tests.made_up import run_of
from ui import cards, formats, gallery, glossary, pictures
from ui.run_choice import RunView

FUNCTIONS = ("loss", "margin")
SCORES = np.random.default_rng(7).normal(size=(4, 6000)).astype(np.float32)
DRAWN = [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "ui").glob("*.py"))]


# -- scores


@pytest.mark.parametrize(
    "function, score, words, number, effect",
    [  # the largest of each list is 0.0103; a loss that falls is help, a margin that falls is harm
        ("loss", -0.0103, "helps 10.3", "−10.3", (1.0, "helps")),
        ("loss", 0.00515, "harms 5.2", "+5.2", (-0.5, "harms")),
        ("margin", -0.0103, "harms 10.3", "−10.3", (-1.0, "harms")),
        ("margin", 0.00515, "helps 5.2", "+5.2", (0.5, "helps")),
        ("logit", 0.00515, "helps 5.2", "+5.2", (0.5, "helps")),
        ("logit:3", 0.00515, "raises 5.2", "+5.2", (0.5, "helps")),
        ("difference:6>4", -0.0103, "lowers 10.3", "−10.3", (-1.0, "harms")),
        ("loss", 1e-9, "harms < 0.1", "< +0.1", (-1e-9 / 0.0103, "harms")),
        ("loss", -1e-9, "helps < 0.1", "> −0.1", (1e-9 / 0.0103, "helps")),
        ("loss", 0.0, "no effect", "0.0", (0.0, "helps")),
        ("loss", math.nan, "—", "—", (0.0, "helps")),
    ],
)
def test_a_score_says_what_it_did_and_how_much(function, score, words, number, effect):
    scale = Scale.of([-0.0103, score], function)
    assert scale.unit == f"thousandths of a {scale.function.short_unit[:-1]}"
    assert (scale.words(score), scale.number(score)) == (words, number)
    share, kind = scale.effect(score)
    assert math.isclose(share, effect[0]) and kind == effect[1]


@pytest.mark.parametrize(
    "largest, unit, number",
    [
        (0.0, "nats", "0.00"),
        (5e-324, "10⁻³⁰⁰ nats", "< +0.001"),
        (1e-45, "10⁻⁴⁵ nats", "+1.00"),
        (3.2e-16, "10⁻¹⁸ nats", "+320.0"),
        (3e-11, "trillionths of a nat", "+30.0"),
        (4.44e-8, "billionths of a nat", "+44.4"),
        (0.0009994, "millionths of a nat", "+999.4"),
        (0.00099996, "thousandths of a nat", "+1.00"),
        (0.0999, "thousandths of a nat", "+99.9"),
        (0.09996, "nats", "+0.100"),
        (0.7516, "nats", "+0.752"),
        (9.996, "nats", "+10.0"),
        (999.96, "thousands of nats", "+1.00"),
        (2.5e7, "millions of nats", "+25.0"),
        (1e20, "10¹⁸ nats", "+100.0"),
    ],
)
def test_the_unit_of_a_list_writes_its_largest_below_a_thousand(largest, unit, number):
    scale = Scale.of([-largest / 3, largest, math.nan, math.inf], "loss")
    assert (scale.unit, scale.number(largest)) == (unit, number)
    assert Scale.of([], "loss").unit == "nats"


def test_all_numbers_of_a_list_have_the_same_decimals():
    for size in 10.0 ** np.arange(-44, 30):
        scores = np.random.default_rng(3).normal(size=50) * size
        scale = Scale.of(scores, "loss")
        written = [scale.words(score).split(" ", 1)[1] for score in scores]
        assert {len(number.partition(".")[2]) for number in written} == {scale.decimals}
        assert not any("e" in number for number in written)
        assert max(float(number.strip("< ").replace(",", "")) for number in written) < 1000


def test_the_exact_value_is_the_stored_one_and_has_no_exponent_of_e():
    rng = np.random.default_rng(1)
    for score in (rng.normal(size=200) * 10.0 ** rng.integers(-30, 20, 200)).astype(np.float32):
        written = exact(score)
        assert "e" not in written
        plain, _, power = written.replace("−", "-").partition(" · 10")
        ten = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
        assert np.float32(f"{plain}e{ten}") == score
    assert exact(0.0) == "0" and exact(math.nan) == "—" and exact(np.float32(-0.0103)) == "−0.0103"


@pytest.mark.parametrize(
    "now, then, sentence",
    [
        (0.064, 0.075, "would rise from 0.064 to about 0.075."),
        (0.064, 0.06400012, "would rise from 0.06400000 to about 0.06400012."),
        (0.75, 0.064, "would fall from 0.750 to about 0.064."),
        (0.5, 0.5, "would stay at 0.500."),
        (2.0, 2.0 + 1e-12, "would hardly change from 2.000."),
        (0.003, 0.0, "would fall from 0.0030 to about 0.0000."),
    ],
)
def test_what_would_be_without_an_image_is_a_sentence_whose_numbers_differ(now, then, sentence):
    assert without_it("loss", now, then) == f"Without it the loss {sentence}"
    assert without_it("loss", now, then, several=True).startswith("Without it the mean loss would")


def test_a_loss_ends_at_zero_and_a_margin_nowhere():
    assert what_ifs.after("loss", 0.003, -0.01) == 0.0 and what_ifs.after("loss", 0.003, 0.01) == 0.003 + 0.01
    assert what_ifs.after("margin", 0.003, -0.01) == 0.003 - 0.01


@pytest.mark.parametrize(
    "share, text",
    [(0.0, "0.0 %"), (1e-9, "< 0.1 %"), (0.00051, "0.1 %"), (0.5, "50.0 %"), (0.99951, "> 99.9 %"), (1.0, "100.0 %")],
)
def test_a_probability_is_never_written_as_nothing_or_all_where_it_is_not(share, text):
    assert formats.percent(share) == text


# -- the glossary


def test_every_term_has_an_address_of_its_own_and_every_word_one_term():
    terms = [term for group in glossary.GROUPS.values() for term in group]
    anchors, words = [t.anchor for t in terms], [w.lower() for t in terms for w in (t.name, *t.also)]
    assert len(set(anchors)) == len(anchors) and len(set(words)) == len(words)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", anchor) for anchor in anchors)
    assert formats.help_text("lds").endswith("[LDS in the glossary](/Glossary?term=lds)")
    assert "log-sum-exp" in glossary.TERMS["margin"].more and "negative" in glossary.TERMS["margin"].help


def test_the_words_that_pages_ask_for_are_in_the_glossary():
    asked = []
    for path in DRAWN:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "help_text":
                asked += [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    assert asked and [word for word in asked if word.lower() not in glossary.TERMS] == []


def test_the_page_has_every_term_with_its_anchor():
    app = show("pages/Glossary.py")
    assert "Margin" not in [heading.value for heading in app.header]
    assert "Margin" in [heading.value for heading in show("pages/Glossary.py", term="margin").header]
    assert "term «nonsense»" in said(show("pages/Glossary.py", term="nonsense"))
    shown = {(heading.value, heading.anchor) for heading in app.subheader}
    assert shown == {(t.name, t.anchor) for group in glossary.GROUPS.values() for t in group}


# -- pictures


@pytest.mark.parametrize(
    "side, widths",
    [
        (28, (56, 84, 140)),
        (32, (64, 96, 160)),
        (64, (64, 128, 192)),
        (8, (64, 96, 144)),
        (96, (64, 96, 192)),
        (100, (64, 96, 200)),
        (224, (64, 96, 144)),
    ],
)
def test_pictures_are_drawn_at_whole_multiples_of_their_pixels_or_reduced(side, widths):
    assert tuple(gallery.sizes(side).values()) == widths
    for width in widths:
        assert gallery.whole(side, width) == width and (width % side == 0 or side > width)


# -- what pages say of an image


@pytest.fixture
def view(root) -> RunView:
    """A run on made-up scores: a loss and a margin."""
    names = ("test:0", "class:2", "test:all")
    return RunView.of(run_of(root, "one", {names: ("loss", SCORES[:3]), ("test:0",): ("margin", SCORES[3:])}))


@pytest.mark.parametrize(
    "key, of", [("test:0.loss", "loss"), ("test:0.margin", "margin"), ("class:2.loss", "mean loss")]
)
def test_an_image_says_its_effect_exactly_and_what_would_be_without_it(view, key, of):
    ref = view.targets[key]
    scores_N = view.manifest.score_sets.row(ref)
    now = target_view.view(view.manifest, view.dataset, ref.target, ref.function)
    shown = [int(scores_N.argmin()), int(scores_N.argmax()), int(np.abs(scores_N).argmin())]
    scale = Scale.of(scores_N[shown], ref.function)
    tiles = cards.training(view, shown, leave_out=key, effects=cards.Effects(scores_N, scale, now))
    for tile, index in zip(tiles, shown, strict=True):
        score = scores_N[index]
        good = score > 0 if ref.function == "margin" else score < 0
        assert tile.lines == (scale.words(score),) and tile.effect[1] == ("helps" if good else "harms")
        assert dict(tile.details)["Score, exactly"] == f"{exact(score)} {scale.function.short_unit}"
        numbers = re.fullmatch(f"Without it the {of} would (rise|fall) from (.+) to about (.+)[.]", tile.sentence)
        before, after = (float(text.replace("−", "-")) for text in numbers.groups()[1:])
        assert (numbers[1] == "rise") == (score < 0)
        assert math.isclose(before, now.values[ref.function], abs_tol=1e-3)
        assert math.isclose(
            after, max(0, before - score) if of != "margin" else before - score, rel_tol=1e-3, abs_tol=2e-3
        )


def test_the_bars_of_all_targets_are_to_the_right_where_the_image_helps(view):
    (tile,) = cards.training(view, [7])
    loss, margin = (dict((name, share) for name, share, _ in tile.bars)[view.titles[f"test:0.{f}"]] for f in FUNCTIONS)
    assert (loss > 0) == (SCORES[0, 7] < 0) and (margin > 0) == (SCORES[3, 7] > 0) and len(tile.bars) == 4
    assert tile.bars_note == "Numbers are nats (loss), logits (margin)." and tile.bars[0][2].split()[0] in (
        "helps",
        "harms",
    )


def test_the_explained_image_stands_beside_for_one_image_and_not_for_a_set(view):
    one, several = (
        target_view.view(view.manifest, view.dataset, view.targets[key].target)
        for key in ("test:0.loss", "class:2.loss")
    )
    beside = cards.beside(view, one)
    assert beside.src == pictures.image_url(view.dataset, "test", 0) and beside.alt.startswith("Test image 0, label")
    assert cards.beside(view, several) is None


# -- in a browser


def test_ticked_test_images_are_in_the_address_and_one_bar_explains_them(page, root):
    run = run_of(root, "one", {("test:0",): ("loss", SCORES[:1])})
    with server(root, page) as (url, _):
        page.goto(f"{url}/Test_images?run={run.id}&ticked=5,nonsense")
        settled(page, "Test images")
        expect(page.get_by_text("The link asks for ticked «nonsense»")).to_be_visible()
        first, second = shown(page, "tests")[:2]
        for index in (first, second):
            box = page.locator(f".st-key-gallery-tests li[data-index='{index}'] input")
            box.check()
            expect(page).to_have_url(re.compile(f"ticked=[^&]*{index}(&|$|%2C)"))
            idle(page)
        explain = page.get_by_role("button", name="Explain 3 test images")
        expect(explain).to_be_in_viewport()
        page.reload()
        settled(page, "Test images")
        expect(page.locator(".st-key-gallery-tests .grid input:checked")).to_have_count(2)
        explain.click()
        expect(page.get_by_role("button", name="Explain these")).to_be_visible()
        page.keyboard.press("Escape")
        page.go_back()  # from what was ticked last
        expect(page.locator(".st-key-gallery-tests .grid input:checked")).to_have_count(1)
        idle(page)
        page.get_by_role("button", name=re.compile("Clear$")).click()
        expect(page.get_by_text("No test image is ticked")).to_be_visible()
        expect(page).not_to_have_url(re.compile("ticked="))


OF_TILES = """tiles => tiles.map(tile => {
    const bar = tile.querySelector(".bar"), track = bar.parentElement.getBoundingClientRect()
    const word = tile.querySelector(".words div"), all = document.createRange()
    all.selectNodeContents(word)
    return {
        width: tile.querySelector("img").getBoundingClientRect().width,
        kind: bar.className.split(" ").at(-1),
        colour: getComputedStyle(bar).backgroundColor,
        right: bar.getBoundingClientRect().left >= track.left + track.width / 2 - 1,
        text: word.innerText,
        rows: all.getClientRects().length,
    }
})"""
GROUND = "getComputedStyle(document.querySelector('.stApp')).backgroundColor"


def contrast(a: str, b: str) -> float:
    """Of two colours, «rgb(1, 2, 3)», as WCAG 2 has it."""
    lights = []
    for colour in (a, b):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_effects_are_words_and_bars_that_show_in_both_themes(page, root):
    run = run_of(root, "one", {("test:0",): ("loss", SCORES[:1] / 100)})
    with server(root, page) as (url, _):
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            page.goto(f"{url}/Training_images?run={run.id}&view=matrix")
            settled(page, "Training images")
            assert len(shown(page, "helpful")) == len(shown(page, "harmful")) == 12
            ground = page.evaluate(GROUND)
            assert (int(re.findall(r"\d+", ground)[0]) < 128) == (theme == "dark")
            for side, word in (("helpful", "helps"), ("harmful", "harms")):
                for tile in page.locator(f".st-key-gallery-{side} li").evaluate_all(OF_TILES):
                    assert re.fullmatch(f"{word} [0-9]+[.][0-9]", tile["text"]) and tile["rows"] == 1
                    assert tile["kind"] == word and tile["right"] == (word == "helps") and tile["width"] == 84
                    assert contrast(tile["colour"], ground) >= 3


def test_a_help_text_leads_to_its_term(page, root):
    run = run_of(root, "one", {("test:0",): ("loss", SCORES[:1])})
    with server(root, page) as (url, _):
        page.goto(f"{url}/Test_images?run={run.id}")
        settled(page, "Test images")
        idle(page)
        page.get_by_test_id("stSlider").get_by_test_id("stTooltipIcon").hover()
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Probability in the glossary").click()
        settled(opened.value, "Glossary")
        expect(opened.value.get_by_role("heading", name="Probability", exact=True, level=2)).to_be_in_viewport()

"""Scores in words, one unit a list; the glossary; pictures at whole multiples of their pixels."""

import ast
import math
import re

import numpy as np
import pytest

from engine.analysis import what_if as what_ifs
from tests.helpers import ROOT, show
from ui import formats, gallery, glossary
from ui.scale import Scale, exact, without_it

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
    assert formats.help_text("lds").endswith("[LDS in the glossary](/Glossary#lds)")
    assert "log-sum-exp" in glossary.TERMS["margin"].more and "negative" in glossary.TERMS["margin"].help


def test_the_words_that_pages_ask_for_are_in_the_glossary():
    asked = []
    for path in DRAWN:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if node.func.attr in ("help_text", "glossary_address") and isinstance(node.args[0], ast.Constant):
                    asked.append(node.args[0].value)
    assert asked and [word for word in asked if word.lower() not in glossary.TERMS] == []


def test_the_page_has_every_term_with_its_anchor():
    app = show("pages/Glossary.py")
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

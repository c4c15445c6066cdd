"""A report: its numbers against the scores, read from the file by another way; its bytes; what is refused; and the file
in a browser that lets it ask for nothing, with texts in it that would do harm."""

import hashlib
import html.parser
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import config_file
from engine.__main__ import main
from engine.analysis import trust
from engine.datasets import registry as datasets
from engine.errors import ConfigError
from engine.report import choice, command, content, drawings, pdf, pictures, writing
from engine.runs import notes
from engine.runs import run as runs
from engine.visible import line
from tests.app import server
from tests.helpers import download, idle, settled, turn, wait_until
from tests.images import folder
from tests.made_up import SAMPLE, run_of
from tests.test_browser import AXE

DATASET = datasets.load("fashion-mnist-sample")
N, LABELS = len(DATASET.train_labels), DATASET.train_labels
NAMES = ("test:0", "test:16", "class:4", "train:17")
SCORES = 1e-3 * np.random.default_rng(4).standard_t(3, size=(len(NAMES) + 1, N)).astype(np.float32)


@pytest.fixture
def run(root) -> runs.Run:
    """Four targets with scores of their loss, one of its margin too; logits are made up."""
    return run_of(root, "one", {NAMES: ("loss", SCORES[:-1]), ("test:0",): ("margin", SCORES[-1:])})


def made(run: runs.Run, *targets: str, **chosen) -> str:
    record = run.manifest()
    dataset = choice.dataset_of(record)
    refs = choice.targets_of(record, dataset, targets)
    return writing.html(content.build(run, record, dataset, refs, choice.Choice(**chosen)))


# -- the second way


class Reader(html.parser.HTMLParser):
    """The articles of a report by their key, each with its text and its tiles; and all text of the file."""

    VOID = {"meta", "img", "br", "line", "circle", "polyline"}

    def __init__(self, content: str):
        super().__init__()
        self.articles: dict[str, dict] = {}
        self.tags: list[tuple[str, dict]] = []
        self.text, self._open, self._key = "", [], None
        self.feed(content)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "article":
            self._key = given["data-key"]
            self.articles[self._key] = {"text": "", "tiles": [], "facts": {}}
        if tag == "li":
            self.articles[self._key]["tiles"].append({**given, "text": ""})
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self._open.pop() == tag
        if tag == "article":
            self._key = None

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._key is not None:
            article = self.articles[self._key]
            article["text"] += data
            if "li" in self._open:
                article["tiles"][-1]["text"] += data
            if "dt" in self._open:
                self._name = data
            if "dd" in self._open:
                article["facts"][self._name] = data


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


UNITS = {"nats": 1.0, "thousandths of a nat": 1e-3, "logits": 1.0, "thousandths of a logit": 1e-3}


@pytest.mark.parametrize(
    "key, row", [("test:0.loss", 0), ("test:16.loss", 1), ("class:4.loss", 2), ("test:0.margin", 4)]
)
def test_the_numbers_in_words_are_those_of_the_scores(run, key, row):
    article = Reader(made(run, key, images=6)).articles[key]
    tau_N, margin = SCORES[row].astype(np.float64), key.endswith("margin")
    order = np.argsort(tau_N, kind="stable")
    helpful, harmful = (order[::-1][:6], order[:6]) if margin else (order[:6], order[::-1][:6])
    tiles = article["tiles"]
    assert [int(t["data-index"]) for t in tiles] == [*helpful, *harmful]
    unit = UNITS[re.search(r"Numbers are ([^.,]+)\.", article["text"])[1]]
    for tile, index, verb in zip(tiles, [*helpful, *harmful], 6 * ["helps"] + 6 * ["harms"], strict=True):
        assert number(tile["data-score"].split()[0]) == pytest.approx(tau_N[index], rel=1e-6)
        said = re.search(rf"{verb} ([\d.,]+)", tile["text"])
        assert number(said[1]) * unit == pytest.approx(abs(tau_N[index]), abs=0.06 * unit)
        assert DATASET.classes[LABELS[index]] in tile["text"] and f"train:{index}" in tile["text"]
    # Leaving images out changes the function by about minus the sum of their scores.
    sentences = list(
        re.finditer(
            r"Without these 6 images the (?:mean )?\w+ would (\w+) by about ([\d.,]+) ([a-z ]+),", article["text"]
        )
    )
    assert len(sentences) == 2
    for sentence, indices in zip(sentences, (helpful, harmful), strict=True):
        change, (moves, size, unit_name) = -tau_N[indices].sum(), sentence.groups()
        assert moves == ("rise" if change > 0 else "fall")
        assert number(size) * UNITS[unit_name] == pytest.approx(abs(change), abs=0.06 * UNITS[unit_name])


def test_what_the_model_says_is_what_its_logits_say(run):
    logits = np.load(run.path / "model" / "test_logits.npy").astype(np.float64)
    p_NC = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    articles = Reader(made(run, images=1)).articles
    for index in (0, 16):
        facts, label = articles[f"test:{index}.loss"]["facts"], DATASET.test_labels[index]
        assert facts["True label"] == DATASET.classes[label]
        assert facts["Predicted"] == DATASET.classes[logits[index].argmax()]
        assert facts["Probability of the true label"] == f"{100 * p_NC[index, label]:.1f} %"
        assert number(facts["Loss"].split()[0]) == pytest.approx(-np.log(p_NC[index, label]), abs=6e-5)
        margin = np.log(p_NC[index, label] / (1 - p_NC[index, label]))
        assert number(facts["Margin"].split()[0]) == pytest.approx(margin, abs=6e-5)
        right = logits[index].argmax() == label
        assert ("✓ right" in articles[f"test:{index}.loss"]["text"]) == right
        assert ("✗ wrong" in articles[f"test:{index}.loss"]["text"]) == (not right)
    coats = DATASET.test_labels == 4
    assert articles["class:4.loss"]["facts"]["Images"] == f"{coats.sum():,}"
    share = (logits[coats].argmax(1) == 4).mean()
    assert articles["class:4.loss"]["facts"]["Classified right"] == f"{100 * share:.1f} %"


# -- the file


def test_each_target_is_told_before_it_is_made(run):
    record, told = run.manifest(), []
    dataset = choice.dataset_of(record)
    refs = choice.targets_of(record, dataset)
    content.build(run, record, dataset, refs, choice.Choice(), on_target=told.append)
    assert told == [1, 2, 3, 4, 5]


def test_the_same_run_gives_the_same_bytes_with_all_that_makes_them_again(run):
    text = made(run, images=2)
    assert text == made(runs.Run.open(run.root, run.id), images=2)
    # Checksums are those of the files, and the settings are the run's.
    for name in ("scores/loss-000.npy", "scores/margin-001.npy", "config.json"):
        assert hashlib.sha256((run.path / name).read_bytes()).hexdigest() in text
    assert DATASET.fingerprint in text
    record = run.manifest()
    seen = Reader(text)
    settings = seen.text.partition("Settings (TOML)")[2].partition("Made by")[0]
    assert config_file.loads(settings) == record.config
    # A command per set of targets that the settings do not ask for.
    assert "python -m engine attribute RUN --targets test:0 --function margin" in seen.text
    assert text.count("<style>") == 1 and not {"script", "link", "iframe", "object", "form"} & {t for t, _ in seen.tags}
    sources = [given["src"] for tag, given in seen.tags if tag == "img"]
    assert sources and all(src.startswith("data:image/") for src in sources)
    assert all(given["alt"] for tag, given in seen.tags if tag == "img")
    assert all(given["aria-label"] for tag, given in seen.tags if tag == "svg")
    assert not re.search(r"https?:|url\(|@import", text)


def test_the_command_in_a_report_makes_it_again(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notes.write_note(run, notes.RUN, "Two\nlines of <b>notes</b>")
    notes.write_note(run, int(SCORES[0].argmin()), "a rare one", N)
    assert main(["report", run.id, "--targets", "test:0", "--images", "3", "--notes", "--out", f"{run.id}.html"]) == 0
    before = Path(f"{run.id}.html").read_bytes()
    said = capsys.readouterr().out
    assert said.startswith("2 targets, 3 images a side: about ") and f"{run.id}.html" in said
    shown = Reader(before.decode()).text
    assert "Two\nlines of <b>notes</b>" in shown and "Note: a rare one" in shown
    again = next(row for row in shown.splitlines() if "engine report" in row)
    words = shlex.split(again)[3:]
    assert main(words) == 2 and "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0 and Path(f"{run.id}.html").read_bytes() == before
    assert "a rare one" not in made(run, "test:0"), "notes are private where they are not asked for"


def test_its_size_is_foretold_before_it_is_made(run):
    for targets, images in ((NAMES[:1], 2), (NAMES, 20)):
        keys = [f"{name}.loss" for name in targets]
        size = len(made(run, *keys, images=images).encode())
        assert 0.7 < choice.foretold_bytes(DATASET, len(keys), images) / size < 1.5


@pytest.mark.parametrize(
    "shape, large, exact, longer",
    [
        ((28, 28, 1), 160, True, 84),
        ((64, 48, 3), 160, True, 128),
        ((300, 200, 3), 160, False, 96),
        ((1, 900, 3), 320, False, 96),
    ],
)
def test_a_small_picture_is_kept_exactly_and_a_large_one_made_smaller(shape, large, exact, longer):
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    kind, content = pictures.encoded(image, large)
    read = np.asarray(Image.open(io.BytesIO(content)).convert("L" if shape[2] == 1 else "RGB")).reshape(-1, *shape[2:])
    if exact:
        assert np.array_equal(read.reshape(shape), image)
    else:
        assert max(Image.open(io.BytesIO(content)).size) == large and kind == "image/webp"
    assert max(pictures.size_on_page(shape, 96)) == longer


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0], [-3e-9, 2e-9], [1e12, 3e12], [-0.5, 0.25, 7.0]])
def test_a_drawing_stands_for_any_numbers(values):
    drawing = drawings.curve(list(range(len(values))), values, "t", "x", "y") + drawings.scatter(
        values, values, "t", "u"
    )
    coordinates = [float(n) for n in re.findall(r'(?:cx|cy|x1|y1)="(-?[\d.]+)"', drawing)]
    assert coordinates and all(-1 <= n <= 461 for n in coordinates) and "nan" not in drawing
    low, high = drawings.spread(values)
    marks = drawings.ticks(low, high)
    assert 2 <= len(marks) <= 12 and all(low <= mark <= high for mark in marks)


# -- what is refused


@pytest.mark.parametrize(
    "options, said",
    [
        (["--out", "there.html"], "is there already. Name another file, or write over it with --force."),
        (["--out", "."], "is a folder. Name a file"),
        (["--out", "nowhere/report.html"], "There is no folder"),
        (["--out", "/proc/report.html"], "Name a file in a folder that you may write."),
        (["--out", "x.html", "--targets", "test:7"], "has no scores for the target «test:7». It has test:0.loss"),
        (["--out", "x.html", "--targets", "test:0-1"], "has no scores for the target «test:1»"),
        (["--out", "x.html", "--targets", "class:hat"], "hat"),
        (["--out", "x.html", "--pdf", "x.pdf"], "A PDF is made by a browser, and none of chromium"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(run, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    Path("there.html").write_text("mine")
    assert main(["report", run.id, *options]) in (1, 2)
    assert said in capsys.readouterr().err
    assert (
        Path("there.html").read_text() == "mine"
        and not list(tmp_path.glob("*x.*"))
        and not Path("report.html").exists()
    )


def test_a_run_without_scores_or_with_other_pictures_is_refused(root, run, tmp_path, capsys):
    out = str(tmp_path / "x.html")
    empty = run_of(root, "empty", {})
    assert main(["report", empty.id, "--out", out]) == 2
    said = capsys.readouterr().err
    assert "has no scores yet; it is finished" in said and "attribute empty --targets" in said
    run.update_manifest(data_fingerprint="0" * 64)
    assert main(["report", run.id, "--out", out]) == 1
    assert "has changed since run one was made" in capsys.readouterr().err and not Path(out).exists()
    with pytest.raises(ConfigError, match="from 1 to 100 images"):
        choice.Choice(images=0)


def test_what_is_not_known_of_scores_from_elsewhere_is_said(run):
    """A run that has scores and pictures, and neither logits, versions, a log nor a training."""
    record = run.manifest()
    kept = {name: sha for name, sha in record.files.items() if not name.startswith("model/")}
    run.update_manifest(files=kept, test_accuracy=None, timings={}, steps=None, trained=False)
    text = Reader(made(run, "test:0.loss", images=2)).text
    assert "What the model says of it is not recorded with this run" in text
    assert "The run has no record of its training's course" in text and "not recorded" in text
    assert "No retraining has checked the scores of this target yet." in text
    assert re.search(r"Without these 2 images the loss would rise by about [\d.]+ thousandths of a nat\.", text)


@pytest.mark.parametrize("answers", [False, True])
def test_scores_of_another_program_are_called_so_and_foretell_nothing(root, answers):
    import engine

    rng = np.random.default_rng(0)
    train, test = ((rng.integers(0, 256, (n, 8, 8, 3), np.uint8), np.arange(n) % 3) for n in (24, 5))
    tau = rng.normal(size=(5, 24)).astype(np.float32)
    given = {"test_logits": np.eye(3)[test[1]].astype(np.float32)} if answers else {}
    path = engine.show(tau, train, test, method="TRAK", sign="help", place="imported", open=False, **given)
    seen = Reader(made(runs.Run.open(root, path.name), images=3))
    (key, article), *others = seen.articles.items()
    assert len(others) == 4 and key.startswith("test:0.")
    assert [int(t["data-index"]) for t in article["tiles"][:3]] == np.argsort(-tau[0])[:3].tolist()
    assert "These scores are TRAK's." in article["text"] and "Without these" not in seen.text
    assert ("The model says" in article["text"]) == answers
    assert "Not checked." in seen.text and "are made again there" in seen.text and "run.toml" not in seen.text
    assert "TRAK units" in article["text"] and "nats" not in article["text"].partition("Most helpful")[2]


# -- of a run that was validated


@pytest.mark.slow
def test_what_retraining_gave_is_told_as_it_was(quick, tmp_path):
    from engine.jobs import execute as work
    from engine.jobs.removal import Removal
    from engine.jobs.validation import Validate
    from engine.jobs.what_if import WhatIf

    for job in (
        Validate(20, (0.05,), 0),
        WhatIf.of((1, 2, 3), {}),
        WhatIf.of((), {5: 2}),
        Removal("test:0.loss", draws=1),
    ):
        with quick.lock():
            work.execute(quick, job)
    text = made(quick)
    seen, record = Reader(text), quick.manifest()
    (report,) = trust.reports(record)
    assert trust.verdict(record).reason in seen.text
    for target in report["targets"]:
        lds = f"(LDS) of {target['lds']:.2f} (95 % interval {target['low']:.2f} to {target['high']:.2f})"
        assert lds.replace("-", "−") in seen.articles[target["key"]]["text"]
        assert "one standard error" in seen.articles[target["key"]]["text"], "a validation of 20 subsets says it"
    lowest = min(report["targets"], key=lambda target: target["lds"])
    assert f"the lowest is {lowest['lds']:.3f}, of Test image".replace("-", "−") in seen.text
    dots = re.findall(r'<circle class="dot"[^>]*r="3.5"', text)
    assert len(dots) == 2 * report["subsets"], "a point a retraining, of both targets"
    left_out, relabelled = trust.what_ifs(record)
    assert "What if: 3 images left out" in seen.text and "Left out: train:1, train:2, train:3." in seen.text
    assert "What if: 1 image relabelled" in seen.text and "train:5 as c" in seen.text
    target = left_out["targets"][0]
    told = re.search(r"3 images left out.*?test.*?0\b.*?([\d.]+) nats", seen.text, re.DOTALL)
    assert told and number(told[1]) == pytest.approx(target["before"]["loss"], abs=6e-5)
    assert "python -m engine validate RUN --subsets 20 --drop 0.05 --seed 0" in seen.text
    assert "python -m engine what-if RUN --relabel 5=2" in seen.text
    assert "Training loss over 10 steps" in text and relabelled["targets"][0]["change"] is None
    assert "the most harmful, 5 %" in seen.text


# -- in a browser

EVIL = (
    "<script>document.title = 1; fetch('http:" + chr(0x2044) * 2 + "evil.example')<" + chr(0x2044) + "script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}<svg onload=alert(1)>",
    "a\u202eb & 'c' &lt;d&gt;",
)


@pytest.fixture
def hostile(root, own_data, tmp_path) -> runs.Run:
    """A run whose classes, files, name and notes would do harm where they were not text."""
    datasets.clear()
    place = folder(tmp_path / "images", dict.fromkeys(EVIL, 8))
    for path in sorted(place.rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}<img src=x onerror=alert(2)>.png"))
    config = SAMPLE.replace(dataset=datasets.canonical(f"folder:{place}"))
    n = datasets.load(config.dataset).sizes.n_train
    scores = np.random.default_rng(0).normal(size=(2, n))
    run = run_of(root, "hostile", {("test:0", "test:1"): ("loss", scores)}, config)
    notes.write_name(run, "</title><script>alert(3)</script>")
    notes.write_note(run, notes.RUN, "<iframe src=javascript:alert(4)></iframe>\n</p><script>alert(5)</script>")
    notes.write_note(run, int(scores[0].argmax()), "<b onmouseover=alert(6)>no\u202ete</b>", n)
    return run


def opened(browser, path: Path, **options):
    """A tab of a file that notes every request, refuses all but the file's own, and fails for any dialog or error."""
    context = browser.new_context(**options)
    faults: list[str] = []
    page = context.new_page()
    page.on("request", lambda r: r.url.startswith(("data:", path.as_uri())) or faults.append(f"asked {r.url}"))
    page.on("dialog", lambda d: (faults.append(f"dialog {d.message}"), d.dismiss()))
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.goto(path.as_uri())
    return page, faults


def asked_for(page, call: str) -> None:
    """Opens the form and asks for notes, until it shows the command for that: a page that is drawn anew closes the row,
    or draws the box once more, under the pointer."""
    form = page.locator(".st-key-report-form")
    row, box = form.locator("details"), form.get_by_role("checkbox", name="With notes and ticks")

    def shown() -> bool:
        if row.get_attribute("open") is None:
            form.locator("summary").click()
        elif box.is_visible() and not box.is_checked():
            form.get_by_text("With notes and ticks").click()
        return form.get_by_text(call).is_visible()

    wait_until(shown, page)


def axe(page) -> list[str]:
    page.evaluate(AXE.read_text(encoding="utf-8"))  # not as an element: the file's own policy forbids those
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{v['id']} {n['target']} {n['failureSummary']}" for v in found for n in v["nodes"]]


def test_a_report_from_the_app_asks_for_nothing_and_shows_hostile_text_as_text(
    hostile, root, own_data, page, browser, tmp_path
):
    n = datasets.load(hostile.manifest().config.dataset).sizes.n_train
    with server(root, page, REPLAY_DATA_DIR=str(own_data)) as (url, _):
        page.goto(f"{url}/Influence?run=hostile&target=test:1.loss")
        settled(page, "Influence")
        idle(page)
        got = []
        for place, words in (("", ["--targets", "test:1.loss"]), (f"{url}/Runs_and_storage", [])):
            if place:
                turn(page, place)
                settled(page, "Runs and storage")
                idle(page)
            asked_for(page, f"python -m engine report hostile {' '.join([*words, '--notes'])}")
            form = page.locator(".st-key-report-form")
            idle(page)
            form.get_by_role("button", name="Make the report").click()
            made = form.get_by_role("button", name="Download the report")
            got.append(tmp_path / f"{len(got)}.html")
            out = tmp_path / "same.html"
            for said in ("<b>noted before</b>", "<b>noted since it was made</b>"):
                download(page, made).save_as(got[-1])
                command.write(hostile, str(out), words[1:], notes=True, force=True)
                assert got[-1].read_bytes() == out.read_bytes(), "the command that is shown makes the same"
                notes.write_note(hostile, 1, said, n)
            # What was chosen otherwise is not what was made.
            form.get_by_label("Images of each side").fill("3")
            form.get_by_label("Images of each side").press("Enter")
            expect(form.get_by_role("button", name="Make the report")).to_be_visible()
            expect(made).to_have_count(0)
    dataset = datasets.load(hostile.manifest().config.dataset)
    assert set(EVIL[:3]) < set(dataset.classes)
    for width, theme in ((1440, "light"), (390, "dark")):
        tab, faults = opened(browser, got[1], viewport={"width": width, "height": 900}, color_scheme=theme)
        seen = tab.evaluate("document.body.innerText")
        for text in (
            *dataset.classes,
            "</title><script>alert(3)</script>",
            "<b onmouseover=alert(6)>no\u202ete</b>",
            "onerror=alert(2)>.png",
        ):
            assert line(text) in re.sub(r"\s+", " ", seen), text
        assert "</p><script>alert(5)</script>" in seen
        assert tab.locator("script, iframe, object, link, [onerror], [onload], [onmouseover]").count() == 0
        assert tab.locator("img").evaluate_all("all => all.every(i => i.src.startsWith('data:') && i.naturalWidth > 0)")
        policy = tab.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
        assert policy and policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert axe(tab) == []
        assert faults == []
        # The policy holds also for what somebody would put into the file.
        assert tab.evaluate("fetch('http://localhost:1/').then(() => 'answered', () => 'refused')") == "refused"
        assert any("Content Security Policy" in fault for fault in faults)
        tab.context.close()
    printed = pdf.of(got[1].read_text(encoding="utf-8"))
    assert printed.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 4

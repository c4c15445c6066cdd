"""Text of links, files, names and notes is drawn as the text that it is, wherever it comes from and on every page."""

import dataclasses
import json
import re

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

from engine import files
from engine.datasets import registry as dataset_registry
from engine.runs import notes
from engine.runs import run as runs
from tests.helpers import PAGES, show
from tests.made_up import run_of
from ui import text

HOSTILE = (
    "[x](http://evil.example)",
    "![x](http://evil.example/p.png)",
    "[x]: http://evil.example",
    "<img src=http://evil.example/q.png>",
    "<a href='http://evil.example'>x</a>",
    "<script>alert(1)</script>",
    "http://evil.example",
    "www.evil.example",
    "who@evil.example",
    ":red[x]",
    ":red-background[x]",
    ":small[x]",
    ":material/home:",
    ":material_home:",
    ":smile:",
    ":streamlit:",
    "$x^2$",
    "`x`",
    "**x**",
    "~~x~~",
    "a | b\n--|--\n1 | 2",
    "a\n\n# x",
    "# x",
    "- x",
    "1. x",
    "> x",
    "x\n===",
    "&lt;b&gt;",
    "a -> b <- c -- d",
    "\u202ex\u202c\u2066y",
    "\u0000\u0007\ud800",
)


@pytest.mark.parametrize("said", HOSTILE)
def test_markdown_shows_the_text_itself(said):
    """What CommonMark reads back, less the joiners that take up no place, is the line that was to be shown."""
    written = text.plain(said)
    assert "\n" not in written
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", written).replace(text.JOINER, "") == text.line(said).strip()
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>$~|&#]", written), "a sign without its backslash"
    assert not re.search(r":[\w+-]+:|://|:[a-z]|www\.|@\w|[-<]>|<-", written.replace("\\", "")), "Streamlit's own"
    assert not re.match(r"[-+=]|\d+[.)]", written)


@pytest.mark.parametrize("said", HOSTILE)
def test_html_shows_the_text_itself(said):
    import html

    written = text.markup(said)
    assert not re.search("[<>\"']|&(?!amp;|lt;|gt;|quot;|#x27;)", written)
    assert html.unescape(written) == text.line(said)


def test_a_charts_template_reads_no_variable_of_others():
    assert "%{" not in text.markup("%{customdata[0]} %{x}")


def test_what_is_not_to_be_seen_is_shown_as_such_and_what_is_endless_ends():
    assert text.line("a\u202eb\u0000c\ud800\ufeff") == "a\ufffdb\ufffdc\ufffd\ufffd"
    assert text.line("a\n\t b\u2028c") == "a b c" and text.plain(" a ") == "a"
    assert len(text.line("x" * 10**6)) == text.LONGEST + 1 and text.line(5) == "5"
    for ordinary in (
        "T-shirt/top",
        "test:7",
        "20261125-161625-sample-0a06",
        "Boot, 93.8 %",
        "Größe · 2×",
        "12:30",
    ):
        assert text.plain(ordinary) == ordinary


# -- on every page

RAW = {  # fields of Streamlit's messages that are drawn as they are, or not drawn at all
    "code_text",
    "options",
    "raw_value",
    "placeholder",
    "alt",
    "default",
    "value",
    "data",
    "id",
    "json",
    "spec",
    "query_string",
    "query_params",
    "form_id",
    "page",
    "url",
    "css",
    "js",
    "html",
    "config",
    "selections",
}


def texts(message, within: str = "") -> list[tuple[str, str]]:
    """All texts of a message of Streamlit's, each with the path of its field."""
    found = []
    for field, value in message.ListFields():
        path = f"{within}.{field.name}"
        several = value if field.is_repeated and not hasattr(value, "items") else [value]
        for one in several:
            if field.type == FieldDescriptor.TYPE_MESSAGE and hasattr(one, "ListFields"):
                found += texts(one, path)
            elif isinstance(one, str):
                found.append((path, one))
    return found


def drawn(app) -> list[tuple[str, str]]:
    def walk(block):
        for child in getattr(block, "children", {}).values():
            yield child
            yield from walk(child)

    found = []
    for element in walk(app._tree):
        proto = getattr(element, "proto", None)
        if proto is not None and hasattr(proto, "ListFields"):
            found += texts(proto, type(proto).__name__)
        if type(element).__name__ == "Table":
            frame = element.value
            found += [("Table.cell", str(cell)) for cell in [*frame.columns, *frame.to_numpy().ravel()]]
    return found


def as_markdown(app) -> str:
    return "\n".join(said for path, said in drawn(app) if path.rpartition(".")[2] not in RAW and path != "Html.body")


def as_html(app) -> str:
    """Of `st.html` and of charts."""
    return "\n".join(said for path, said in drawn(app) if path in ("Html.body", "PlotlyChart.spec"))


MIXED = (
    "![x](http://evil.example/p.png)<img src=x> :red[x]",
    "[x](http://evil.example) `x` $x$ :material/bomb: **x**",
    "a\n# b www.evil.example <b>\u202e",
)
LINKS = {
    "pages/Influence.py": ("target", "pin", "label", "relation", "side", "k", "size", "low", "high", "page"),
    "pages/Themes.py": ("target", "side", "top", "themes"),
    "pages/Training_images.py": ("view", "image", "label", "page", "function", "group", "order"),
    "pages/Test_images.py": ("wrong", "true", "predicted", "from", "to", "order", "page"),
    "pages/Compare_runs.py": ("other", "target", "image", "view", "runs"),
    "pages/Trust.py": ("validation", "target", "set"),
    "pages/Find_bad_labels.py": ("from", "order", "target", "label"),
    "pages/Self_influence.py": ("label", "page"),
}


READ = re.compile(r"(?<!\\)(\]\(http|<img|<b>|:red\[|:material/bomb:|`x`|\$x|\*\*x|\n# b|www\.evil|\u202e)")


def check(app) -> None:
    """Nothing of `MIXED` is there as Markdown or HTML would read it."""
    said = as_markdown(app)
    assert not (read := READ.search(said)), said[max(0, read.start() - 200) : read.end()]
    assert not (read := re.search("<img|<b>", as_html(app).replace('<img src="data:', ""))), read


@pytest.mark.slow
@pytest.mark.parametrize("said", MIXED)
@pytest.mark.parametrize("page", PAGES)
def test_no_page_reads_a_link_as_markdown(page, said, run):
    check(show(page, run=said))
    names = LINKS.get(page, ())
    for name in names:
        check(show(page, run=run.id, **{name: said}))


@pytest.fixture
def hostile_classes(monkeypatch):
    """The sample, its ten classes named like nothing that anybody would name a folder."""
    load = dataset_registry.load
    names = tuple(f"{MIXED[i % len(MIXED)]} {i}" for i in range(10))
    monkeypatch.setattr(dataset_registry, "load", lambda name: dataclasses.replace(load(name), classes=names))


@pytest.mark.slow
@pytest.mark.parametrize("page, query", [*((p, {}) for p in PAGES), ("pages/Training_images.py", {"view": "matrix"})])
def test_no_page_reads_a_classs_name_a_note_or_a_file_as_markdown(page, query, root, hostile_classes):
    rng = np.random.default_rng(0)
    dataset = dataset_registry.load("fashion-mnist-sample")
    N = len(dataset.train_labels)
    predicted = run_of(root, "logits", {}).manifest().test_logits().argmax(1)
    mistake = int(np.flatnonzero(predicted != dataset.test_labels)[0])
    confusion = f"confusion:{dataset.test_labels[mistake]}>{predicted[mistake]}"
    sets = {
        ("test:0", "class:2"): ("loss", rng.normal(size=(2, N)).astype(np.float32)),
        (confusion, "train:3"): ("difference:6>4", rng.normal(size=(2, N)).astype(np.float32)),
    }
    run, other = run_of(root, "one", sets), run_of(root, "two", sets)
    said = " ".join(MIXED)
    notes.write_note(run, notes.RUN, said)
    notes.write_note(run, 0, said)
    notes.tick(run, {0: True}, N)
    run.update_manifest(created=said, error={"what": said, "remedy": said, "kind": said})
    run.events_log.append("note", text=said)
    run.events_log.append("failed", what=said, remedy=said)
    check(show(page, run=run.id, **query))
    if page == "pages/Influence.py":
        for target in (f"{confusion}.difference:6>4", "train:3.difference:6>4"):
            app = show(page, run=run.id, target=target)
            app.radio(key="function-further").set_value("difference:CLASS>CLASS").run()
            check(app)
    assert runs.Run.open(root, other.id).id == "two"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_no_page_reads_the_keys_of_a_settings_file_as_markdown(page, run):
    said = MIXED[0]
    path = run.path / "config.json"
    checksum = files.write_json(path, {**json.loads(path.read_text()), said: said})
    run.update_manifest(files={**run.manifest().files, "config.json": checksum})
    check(show(page, run=run.id))

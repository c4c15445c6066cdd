"""Training images that a person has ticked: sets by name, kept with their run, the same in every tab.

«influence» is the selection of all pages: images to leave out. «labels» are the corrections of the run, which *Find
bad labels* ticks and *Triage* goes through (`engine.runs.corrections`): images whose label is wrong. One that is ticked
may have a new label; without one it is to be left out.
`bar` draws what is ticked of a set, and what can be done with it, where it stays in view.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import streamlit as st

from engine import files
from engine.analysis.logits import judged
from engine.errors import IntegrityError
from engine.jobs.what_if import WhatIf
from engine.runs import corrections, notes
from engine.runs.corrections import EXCLUDED, Corrections
from engine.runs.notes import INFLUENCE, LABELS
from ui import formats, gallery, paging, shell
from ui.run_choice import RunView
from ui.text import line, plain

HERE = Path(__file__).parent
_status = st.components.v2.component(
    "ticks_status", html='<div role="status"></div>', js=(HERE / "ticks_status.js").read_text(encoding="utf-8")
)
STYLE = f"<style>{(HERE / 'ticks_bar.css').read_text(encoding='utf-8')}</style>"


# -- what is kept


def read(run: RunView) -> notes.Notes:
    """The run's ticks and notes; none, said once on the page, where their file is damaged: its scores are not."""
    try:
        return notes.read(run.folder)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return notes.Notes()


def corrected(run: RunView) -> Corrections:
    """What was decided on the run's labels; nothing, said once on the page, where the file is damaged."""
    try:
        return corrections.read(run.folder, *_how_many(run))
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return Corrections()


def of(run: RunView, set_name: str = INFLUENCE) -> list[int]:
    """The indices ticked. A file that was made for more images than there are may hold others, which are none."""
    if set_name == LABELS:
        decided = corrected(run)
        return sorted({*decided.labels, *decided.excluded})
    return [index for index in read(run).ticked_in(set_name) if index < len(run.dataset.train_labels)]


def new_labels(run: RunView, set_name: str = INFLUENCE) -> dict[int, int]:
    """Other labels, by image, of those that are ticked."""
    if set_name == LABELS:
        return dict(corrected(run).labels)
    images, classes = _how_many(run)
    labels = read(run).labels_in(set_name)
    return {index: label for index, label in labels.items() if index < images and label < classes}


def what_if(run: RunView, set_name: str = INFLUENCE) -> WhatIf:
    """The retraining that what is ticked asks for: images with a new label get it, the others are left out."""
    labels = new_labels(run, set_name)
    return WhatIf.of([index for index in of(run, set_name) if index not in labels], labels)


def change(run: RunView, changes: dict[int, bool], set_name: str = INFLUENCE) -> None:
    with shell.guarded():
        if set_name == LABELS:
            corrections.mark(run.folder, changes, *_how_many(run))
        else:
            notes.tick(run.folder, changes, len(run.dataset.train_labels), set_name)


def _how_many(run: RunView) -> tuple[int, int]:
    """Training images, and classes."""
    return len(run.dataset.train_labels), len(run.dataset.classes)


def add(run: RunView, indices: Iterable[int], set_name: str = INFLUENCE) -> None:
    change(run, {int(index): True for index in indices}, set_name)


def clear(run: RunView, set_name: str = INFLUENCE) -> None:
    change(run, dict.fromkeys(of(run, set_name), False), set_name)


def relabel(run: RunView, labels: Mapping[int, int | None], set_name: str = INFLUENCE) -> None:
    """Gives images other labels and ticks them; with None an image stays ticked, to be left out."""
    with shell.guarded():
        if set_name == LABELS:
            decisions = {i: EXCLUDED if label is None else label for i, label in labels.items()}
            corrections.decide(run.folder, decisions, *_how_many(run))
        else:
            notes.relabel(run.folder, labels, *_how_many(run), set_name)


def note_field(run: RunView, what: int | str, label: str, placeholder: str) -> None:
    """The note on a training image, or on the run (`notes.RUN`). What another tab saves appears here; but no note takes
    the place of one that its writer had not seen: that is said, and the field keeps its text, to be saved again."""
    key = f"note-{run.id}-{what}"
    seen, saved = f"{key}-seen", read(run).of(what)
    if key not in st.session_state or st.session_state[key].strip() == st.session_state[seen]:
        st.session_state[key] = st.session_state[seen] = saved

    def save() -> None:
        with shell.guarded():
            notes.write_note(run.folder, what, st.session_state[key], instead_of=st.session_state[seen])
        st.session_state[seen] = read(run).of(what)

    st.text_area(
        label,
        key=key,
        max_chars=notes.LONGEST,
        height=80,
        placeholder=placeholder,
        on_change=save,
        **shell.acting(),
    )


def accept(run: RunView, indices: list[int], set_name: str = INFLUENCE) -> None:
    """The model's labels are the new ones; an image whose label the model agrees with gets none."""
    said = judged(run.manifest.train_logits()[indices], run.dataset.train_labels[indices]).predicted_label
    given = run.dataset.train_labels[indices]
    relabel(run, {i: int(c) if c != old else None for i, c, old in zip(indices, said, given, strict=True)}, set_name)


# -- what is drawn


def tiles(
    run: RunView,
    images: list[gallery.Tile],
    key: str,
    size: int = 96,
    bars_title: str = "",
    shares_title: str = "",
    set_name: str = INFLUENCE,
    beside: gallery.Beside | None = None,
    suggested: Mapping[int, int] | None = None,
) -> None:
    """Training images with their ticks; `beside` stands beside each that is enlarged. With `suggested`, a class of each
    by its number, their labels can be chosen, too."""
    labels, on_tick = None, None
    if not files.read_only():
        on_tick = functools.partial(change, run, set_name=set_name)
        if suggested is not None:
            given = {tile.index: int(run.dataset.train_labels[tile.index]) for tile in images}
            on_label = functools.partial(relabel, run, set_name=set_name)
            chosen = new_labels(run, set_name)
            labels = gallery.Labels(run.dataset.classes, given, suggested, chosen, on_label)
    gallery.show(
        run.dataset,
        images,
        key,
        size=size,
        ticked=set(of(run, set_name)),
        bars_title=bars_title,
        beside=beside,
        shares_title=shares_title,
        on_tick=on_tick,
        labels=labels,
    )


def bar(run: RunView, set_name: str = INFLUENCE, see: Callable[[], None] | None = None) -> None:
    """What is ticked of a set, and what can be done with it, at the bottom of the view. To be called once a page, at
    its end. `see` shows the ticked images on the page, before it is drawn again; without it they are shown above it."""
    ticked = of(run, set_name)
    if files.read_only() and not ticked:
        return
    job = what_if(run, set_name)
    with strip(_in_words(ticked, job), set_name):
        if ticked:
            with shell.guarded():
                _draw_actions(run, set_name, ticked, job, see)


@contextlib.contextmanager
def strip(text: str, name: str) -> Iterator[None]:
    """A strip at the bottom of the view that says `text`, and behind it what is drawn inside."""
    st.html(STYLE)
    with st.bottom, st.container(key="ticks-bar", horizontal=True, vertical_alignment="center", gap="small"):
        # A component of its own, for what a screen reader is to hear must stay.
        with st.container(key="ticks-count", width="stretch"):
            _status(key=f"ticks-status-{name}", data={"text": text})
        yield


def _in_words(ticked: list[int], job: WhatIf) -> str:
    if not ticked:
        return "No image is ticked."
    counts = ((len(job.left_out), "to leave out"), (len(job.relabelled), "to relabel"))
    parts = [f"{count:,} {what}" for count, what in counts if count]
    return f"{formats.count(len(ticked), 'images')} ticked: {', '.join(parts)}"


def _draw_actions(run: RunView, set_name: str, ticked: list[int], job: WhatIf, see) -> None:
    if not run.manifest.method and st.button(
        "Train again with both" if job.left_out and job.relabelled else f"{_doing(job)}: train again",
        key=f"ticks-train-{set_name}",
        type="primary",
        icon=":material/science:",
        **shell.acting(False, "One retraining, beside which the run itself stays as it is.", run.manifest),
    ):
        shell.submit(run.id, job)
    with st.popover("Relabel", icon=":material/new_label:", **shell.acting()):
        _draw_relabelling(run, set_name, ticked, job)
    shown = f"ticks-shown-{run.id}-{set_name}"
    forget = functools.partial(st.session_state.pop, shown, None)
    if st.button("See them", key=f"ticks-see-{set_name}", icon=":material/visibility:", on_click=see or forget):
        if see is None:
            _show(run, set_name, shown)
    st.button(
        "Clear",
        key=f"ticks-clear-{set_name}",
        icon=":material/clear:",
        on_click=clear,
        args=(run, set_name),
        **shell.acting(),
    )


def _doing(job: WhatIf) -> str:
    return "Relabel" if job.relabelled else "Leave out"


def _draw_relabelling(run: RunView, set_name: str, ticked: list[int], job: WhatIf) -> None:
    shows = "" if run.manifest.method else "A retraining shows what the new labels do; "
    stay = "the data stay as they are."
    st.caption(f"For all ticked images. {shows}{stay if shows else stay.capitalize()}")
    st.button(
        "Accept the model's labels",
        key=f"ticks-accept-{set_name}",
        icon=":material/done_all:",
        on_click=accept,
        args=(run, ticked, set_name),
        **shell.acting("model/train_logits.npy" not in run.manifest.files),
    )
    key = f"ticks-label-{set_name}"
    st.selectbox(
        "One label for all",
        range(len(run.dataset.classes)),
        index=None,
        key=key,
        format_func=lambda label: line(run.dataset.classes[label]),
        placeholder="Choose a label",
        on_change=lambda: _label_all(run, set_name, ticked, key),
        **shell.acting(),
    )
    st.button(
        "Leave them all out instead",
        key=f"ticks-none-{set_name}",
        on_click=relabel,
        args=(run, dict.fromkeys(ticked), set_name),
        **shell.acting(not job.relabelled),
    )
    if set_name == INFLUENCE:
        st.page_link(
            "pages/Triage.py",
            label="Decide on them one by one, on Triage",
            icon=":material/rule:",
            query_params={"run": run.id, "queue": "ticked"},
        )


def _label_all(run: RunView, set_name: str, ticked: list[int], key: str) -> None:
    if (label := st.session_state[key]) is not None:
        relabel(run, dict.fromkeys(ticked, label), set_name)
        st.session_state[key] = None


@st.dialog("Ticked images", width="large", on_dismiss="rerun")
def _show(run: RunView, set_name: str, key: str) -> None:
    """All of them, on whatever page, or none, of the list below they are; what is unticked here stays to be seen."""
    images = st.session_state.setdefault(key, of(run, set_name))
    page = paging.choose(len(images), f"{key}-page", name=None)
    labels, classes = new_labels(run, set_name), run.dataset.classes
    shown = []
    for index in paging.of_page(images, page):
        given = line(classes[run.dataset.train_labels[index]])
        lines = (line(f"new: {classes[labels[index]]}"),) if index in labels else ()
        shown.append(gallery.Tile("train", index, given, lines, (("Image", f"train:{index}"), ("Given label", given))))
    st.caption(plain(f"{formats.count(len(images), 'images')}, with the labels given."))
    tiles(run, shown, f"ticked-{set_name}", set_name=set_name)

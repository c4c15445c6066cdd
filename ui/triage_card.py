"""The queue of *Triage*, one image at a time, for the keyboard (`triage.js`); and what its keys do on the disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from engine import files
from engine.analysis import neighbours, suspects
from engine.analysis.logits import softmax
from engine.analysis.suspects import DUPLICATES, SELF, Suspect
from engine.errors import ReplayError
from engine.runs import corrections
from engine.runs.corrections import Record, Step
from ui import formats, gallery, link, pictures, shell, ticks
from ui.run_choice import RunView
from ui.text import line
from ui.triage_queue import Queue

HERE = Path(__file__).parent
CHUNK = 12  # images that are sent together
AHEAD = 6  # before the end of what is sent, more are: that of triage.js
ENLARGED = 320  # CSS pixels of the picture, at most
ALIKE = 6  # images of each of two classes that are shown below
LIKELIEST = 5  # classes whose probabilities are shown
_component = st.components.v2.component(
    "triage",
    html='<div class="triage" tabindex="0" role="group" aria-label="Image to decide on"><div class="head"></div>'
    '<progress aria-label="Looked at"></progress><div class="body"></div><div class="controls"></div>'
    '<div class="chooser"></div><div role="status"></div><div class="alikes"></div><div class="keys"></div></div>',
    css=(HERE / "triage.css").read_text(encoding="utf-8"),
    js=(HERE / "triage.js").read_text(encoding="utf-8"),
)


def draw(run: RunView, queue: Queue, first: int = -1) -> None:
    """To be called in a fragment: a key draws this anew, and not the page. `first`: the training image that it opens
    with where the queue has it."""
    record = read(run)
    state = st.session_state.setdefault(f"triage-{run.id}", {"acked": {}, "undone": None, "message": ""})
    asked = state.pop("asked", None)
    if asked is None or asked["queue"] != queue.key:
        asked = {"at": opens_at(queue, record, first), "have": []}
    ticked = set(ticks.of(run))
    classes = [line(name) for name in run.dataset.classes]
    height, width, _ = run.dataset.image_shape
    side = max(height, width)
    _component(
        key=f"triage-card-{run.id}",
        data={
            "queue": queue.key,
            "count": len(queue.suspects),
            "first": asked["at"],
            "classes": classes,
            "acting": not files.read_only(),
            "why_not": shell.READ_ONLY,
            "enlarged": gallery.whole_below(side, ENLARGED) * width // side,
            "smooth": side > ENLARGED,
            "can_undo": bool(record.history),
            "items": {at: item for at, item in _items(run, queue, asked["at"], asked["have"])},
            "decisions": {
                at: decision
                for index in (*record.corrections.labels, *record.corrections.excluded)
                if (at := queue.place_of(index)) is not None and (decision := record.corrections.of(index)) is not None
            },
            "ticked": [at for index in ticked if (at := queue.place_of(index)) is not None],
            "looked": [at for item in record.looked_at if (at := queue.places.get(item)) is not None],
            "acked": state["acked"],
            "undone": state["undone"],
            "message": state["message"],
        },
        on_act_change=lambda: _act(run, queue),
    )
    state["message"] = ""


def read(run: RunView) -> Record:
    """What was decided and looked at; nothing, said once on the page, where the file is damaged."""
    try:
        return corrections.read_record(run.folder, len(run.dataset.train_labels), len(run.dataset.classes))
    except ReplayError as error:
        shell.show_error_once(error.what, error.remedy)
        return Record()


def opens_at(queue: Queue, record: Record, first: int) -> int:
    """The position of an image that a link asks for, else of the first that was not looked at."""
    if (at := queue.place_of(first)) is not None:
        return at
    left = (at for at, suspect in enumerate(queue.suspects) if suspect.item not in record.looked_at)
    return next(left, 0)


# -- what is sent of an image


def _items(run: RunView, queue: Queue, at: int, have: Iterable[int]) -> list[tuple[int, dict[str, Any]]]:
    """The images around a position that the browser has not got, whole chunks of them, so that each is looked for its
    like once."""
    last = len(queue.suspects) - 1
    chunks = dict.fromkeys(min(max(each, 0), last) // CHUNK for each in (at, at + AHEAD))
    known = set(have)
    sent = []
    for chunk in chunks:
        places = range(chunk * CHUNK, min((chunk + 1) * CHUNK, last + 1))
        if not known.issuperset(places):
            items = _chunk(run, queue, [queue.suspects[place] for place in places])
            sent += [(place, item) for place, item in zip(places, items, strict=True) if place not in known]
    return sent


def _chunk(run: RunView, queue: Queue, chunk: Sequence[Suspect]) -> list[dict[str, Any]]:
    images = [suspect.index for suspect in chunk if suspect.index is not None]
    labels = run.dataset.train_labels[images]
    logits = run.manifest.train_logits()[images] if suspects.LOGITS in run.manifest.files else None
    model = [None] * len(images) if logits is None else logits.argmax(1).tolist()
    shares = [None] * len(images) if logits is None else list(softmax(logits))
    asked = tuple(
        tuple(dict.fromkeys(c for c in (int(given), said) if c is not None))
        for given, said in zip(labels, model, strict=True)
    )
    alike = _nearest(run.dataset.fingerprint, tuple(images), asked, run.dataset) if images else []
    of_images = iter(zip(labels.tolist(), model, shares, asked, alike, strict=True))
    return [_unread(s) if s.index is None else _item(run, queue, s, *next(of_images)) for s in chunk]


@st.cache_data(max_entries=64, show_spinner=False)
def _nearest(fingerprint: str, indices: tuple[int, ...], labels: tuple[tuple[int, ...], ...], _dataset):
    return neighbours.nearest(_dataset, indices, labels, ALIKE)


def _unread(suspect: Suspect) -> dict[str, Any]:
    name = line(suspect.item.removeprefix("file:"))
    return {
        "name": suspect.item,
        "index": None,
        "title": formats.shortened(name),
        "src": "",
        "alt": "",
        "given": None,
        "model": None,
        "lines": [["File", name]],
        "shares": [],
        "groups": [],
        "reason": "This file cannot be read.",
        "detail": line(suspect.detail),
        "link": "",
    }


def _item(
    run: RunView,
    queue: Queue,
    suspect: Suspect,
    given: int,
    model: int | None,
    shares_C: np.ndarray | None,
    asked: tuple[int, ...],
    alike: list[list[int]],
) -> dict[str, Any]:
    dataset, index = run.dataset, suspect.index
    assert index is not None
    classes = dataset.classes
    file = dataset.file_name("train", index)
    lines = [["Label given", line(classes[given])]]
    lines += [] if model is None else [["Model's label", line(classes[model])]]
    lines += [] if file is None else [["File", line(file)]]
    if dataset.true_train_labels is not None:
        lines.append(["True label, as the data set knows it", line(classes[dataset.true_train_labels[index]])])
    groups = [
        [line(f"Nearest with the label {classes[label]}, by pixels"), [_small(run, "train", i) for i in images]]
        for label, images in zip(asked, alike, strict=True)
        if images
    ]
    if suspect.twins:
        heading = "Nearly the same" if suspect.detail else "The same image"
        groups.insert(0, [heading, [_small(run, split, i) for split, i in suspect.twins[: 2 * ALIKE]]])
    return {
        "name": suspect.item,
        "index": index,
        "title": f"train:{index}",
        "src": pictures.image_url(dataset, "train", index),
        "alt": pictures.alt(dataset, "train", index),
        "given": given,
        "model": model,
        "lines": lines,
        "shares": [] if shares_C is None else _shares(classes, shares_C),
        "groups": groups,
        "reason": _reason(run, queue, suspect),
        "detail": "",
        "link": link.to("Training_images", run=run.id, image=index),
    }


def _small(run: RunView, split: str, index: int) -> dict[str, str]:
    return {"src": pictures.small_url(run.dataset, split, index), "alt": pictures.alt(run.dataset, split, index)}


def _shares(classes: tuple[str, ...], shares_C: np.ndarray) -> list[tuple[str, float, str]]:
    """The likeliest classes, the likeliest first."""
    likeliest = np.argsort(-shares_C, kind="stable")[:LIKELIEST].tolist()
    return [(line(classes[c]), float(shares_C[c]), formats.percent(float(shares_C[c]))) for c in likeliest]


def _reason(run: RunView, queue: Queue, suspect: Suspect) -> str:
    """Why an image is in the queue, in a sentence."""
    if queue.source == DUPLICATES:
        tests = sum(split == "test" for split, _ in suspect.twins)
        split = "also in testing" if tests else "in training"
        others = formats.count(len(suspect.twins), "other images")
        return f"Near {others}, {split}: {suspect.detail}." if suspect.detail else f"The same as {others}, {split}."
    if suspect.value is None:
        return ""
    if queue.source == "harm" and queue.target is not None:
        scale = formats.Scale.of(np.array([suspect.value]), run.targets[queue.target].function)
        return line(f"On {run.titles[queue.target]}: {scale.words(suspect.value)}.")
    if queue.source == SELF:
        return f"Its own loss would rise by {formats.figure(suspect.value, 3)} nats without it."
    share = formats.percent(float(np.exp(-suspect.value)))
    return f"The model gives its label {share}: a loss of {formats.figure(suspect.value, 3)} nats."


# -- what its keys do


def _act(run: RunView, queue: Queue) -> None:
    """Does what the browser sent and was not done yet, in its order, and remembers what it asks for."""
    sent = st.session_state[f"triage-card-{run.id}"].get("act")
    if not isinstance(sent, dict):
        return
    state = st.session_state[f"triage-{run.id}"]
    client = str(sent["client"])
    state["asked"] = {"queue": str(sent["queue"]), "at": int(sent["at"]), "have": [int(at) for at in sent["have"]]}
    state["undone"] = None
    for action in sent["actions"]:
        if int(action["id"]) <= state["acked"].get(client, 0):
            continue
        try:
            _do(run, queue, action, client, state)
        except ReplayError as error:
            state["message"] = line(f"{error.what} {error.remedy}")
        state["acked"][client] = int(action["id"])


def _do(run: RunView, queue: Queue, action: dict[str, Any], client: str, state: dict[str, Any]) -> None:
    item, kind = str(action["item"]), action["kind"]
    images, classes = len(run.dataset.train_labels), len(run.dataset.classes)
    if kind == "look":
        corrections.look(run.folder, [item])
    elif kind == "tick":
        corrections.tick(run.folder, {int(item): bool(action["now"])}, images)
    elif kind == "decide":
        was, now = ({int(item): _decision(action[side])} for side in ("was", "now"))
        corrections.decide(run.folder, now, images, classes, seen=was, looked_at=[item])
    elif kind == "undo":
        step = corrections.undo(run.folder, images)
        place = None if step is None else _place(queue, step)
        state["undone"] = {"client": client, "id": action["id"], "position": place, "text": _undone(run, step, place)}
        if place is not None:
            state["asked"]["at"] = place


def _decision(value: Any) -> corrections.Decision:
    return value if value is None or value == corrections.EXCLUDED else int(value)


def _images_of(step: Step) -> list[int]:
    return [index for index, *_ in (*step.decided, *step.ticked)]


def _place(queue: Queue, step: Step) -> int | None:
    """Where the queue shows what was undone; None where it was another queue, or another page."""
    items = (*map(str, _images_of(step)), *step.looked_at)
    return next((queue.places[item] for item in items if item in queue.places), None)


def _undone(run: RunView, step: Step | None, place: int | None) -> str:
    if step is None:
        return "There is nothing to undo."
    images, classes = _images_of(step), run.dataset.classes
    if not images:
        return line(f"Undone: {', '.join(step.looked_at)} was kept as it is.")
    if len(images) != 1:
        return line(f"Undone: what was decided on {formats.count(len(images), 'images')} at once.")
    if step.ticked:
        what = "ticked" if step.ticked[0][1] else "not ticked"
    else:
        index, was, _ = step.decided[0]
        what = {None: f"{classes[run.dataset.train_labels[index]]}, as given", corrections.EXCLUDED: "left out"}.get(
            was, classes[was] if isinstance(was, int) and was < len(classes) else ""
        )
    where = "" if place is not None else " It is not in this queue."
    return line(f"Undone: train:{images[0]} is {what} again.{where}")

"""Self-influence as the pages say it: numbers beside images, and the form that computes more of it."""

import numpy as np
import streamlit as st

from engine.analysis import cost
from engine.analysis import self_influence as self_influences
from engine.analysis.self_influence import Known
from engine.errors import IntegrityError
from engine.jobs.self_influence import SelfInfluence, lacking_of
from engine.runs.notes import INFLUENCE, LABELS
from ui import formats, shell, ticks
from ui.paging import class_name
from ui.run_choice import RunView
from ui.text import line

TOGETHER = (16, 64, 256)  # images a target of an estimate
MOST = 500  # images of the highest losses, at first


def known_of(run: RunView) -> Known | None:
    """What the run knows; None, said once on the page, where its file is damaged: the rest of the run is not."""
    try:
        return self_influences.known(run.manifest)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return None


def scale_of(known: Known) -> formats.Scale:
    """One unit for all that the run knows."""
    return formats.Scale.of(known.rise_N, "loss")


def words(known: Known, scale: formats.Scale, index: int) -> str:
    """«+1.94», «+1.9 ± 0.2»; a dash where it is not known."""
    rise, error = float(known.rise_N[index]), float(known.error_N[index])
    if np.isnan(rise):
        return "—"
    return f"{scale.number(rise)} ± {scale.number(error).lstrip('+')}" if error else scale.number(rise)


def details(known: Known | None, scale: formats.Scale | None, index: int) -> tuple[tuple[str, str], ...]:
    """For beside an enlarged image: nothing where it was not computed for it."""
    if known is None or scale is None or np.isnan(known.rise_N[index]):
        return ()
    exact = "" if known.together_N[index] == 1 else f", estimated, {int(known.together_N[index])} a target"
    return (("Self-influence", f"{words(known, scale, index)} {scale.unit}{exact}"),)


# -- the form


def compute(run: RunView) -> None:
    """Which images, exactly or estimated, what each costs, and the button."""
    if not run.manifest.has_model:
        st.info("It is computed in Python: engine.self_influence (docs/self-influence.md).", icon=":material/info:")
        return
    images = _images(run)
    if not images:
        return
    dataset, known = run.dataset, known_of(run)
    asked = self_influences.chosen(images, run.manifest, dataset)
    hows = [1, *(g for g in TOGETHER if 2 * g <= len(asked))]
    costs = {g: _cost(run, len(lacking_of(asked, known, g)), g) for g in hows}
    together = st.radio(
        f"How, for {formats.count(len(asked), 'images')}",
        hows,
        key=f"self-together-{run.id}",
        format_func=lambda g: "Exactly" if g == 1 else f"Estimated, {g} images a target",
        captions=list(costs.values()),
    )
    ready = run.manifest.kept_mode
    before = "" if ready else " The run keeps no checkpoints: it is trained once more first."
    st.caption(
        "It can be cancelled at any time, and goes on where it was: each part is kept as soon as it is done, and what "
        f"is known is not computed again.{before}"
    )
    if st.button(
        "Compute self-influence",
        type="primary",
        icon=":material/play_arrow:",
        **shell.acting(not len(lacking_of(asked, known, together))),
    ):
        shell.submit(run.id, SelfInfluence(images, together, ready or "memory"))


def _images(run: RunView) -> str:
    """The text of the images that are chosen; empty where none are."""
    ticked = {name: ticks.of(run, name) for name in (INFLUENCE, LABELS)}
    titles = {"loss": "Those of the highest losses", "class": "One class", "all": "All training images"}
    if "model/train_logits.npy" not in run.manifest.files:  # of a run of an older version
        del titles["loss"]
    titles |= {
        name: f"{formats.count(len(of), 'ticked images')} of {place}"
        for (name, of), place in zip(ticked.items(), ("the pages that explain", "Find bad labels"), strict=True)
        if of
    }
    left, right = st.columns(2)
    which = left.selectbox("Images", list(titles), key=f"self-images-{run.id}", format_func=titles.__getitem__)
    if which == "class":
        classes = run.dataset.classes
        label = right.selectbox("Label", classes, key=f"self-label-{run.id}", format_func=class_name)
        return f"class:{classes.index(label)}" if (run.dataset.train_labels == classes.index(label)).any() else ""
    if which == "loss":
        n = len(run.dataset.train_labels)
        return f"loss:{right.number_input('How many', 1, n, min(MOST, n), step=100, key=f'self-count-{run.id}')}"
    return self_influences.listed(np.array(ticked[which])) if which in ticked else which


def _cost(run: RunView, lacking: int, together: int) -> str:
    targets = self_influences.replays(lacking, together)
    if not targets:
        return "All of them are known."
    took = cost.replay_seconds(run.manifest, targets)
    about = "" if took is None else f", about {formats.duration(took)}, as replays of this run went so far"
    error = "" if together == 1 else "; each with its standard error"
    return line(f"{formats.count(targets, 'targets')} to replay{about}{error}")

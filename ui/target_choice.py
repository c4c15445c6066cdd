"""The target that a page shows, chosen from those of its run by looking, or from a list where there are many."""

from collections.abc import Callable

import streamlit as st

from engine.analysis import target_view
from engine.errors import ReplayError
from engine.runs import uploads
from engine.runs.scores import TargetRef
from engine.targets import (
    TEST,
    TRAIN,
    AllTests,
    ClassOfTests,
    Confusion,
    Target,
    TestImage,
    TrainImage,
    UploadedImage,
)
from ui import duplicates_twin, formats, link, pictures, target_strip
from ui.run_choice import RunView
from ui.text import line

MOSAIC = 4  # images that stand for a set


def by_looking(run: RunView, on_change: Callable[[], None]) -> TargetRef:
    """The target of `?target=`, or the first, or one that is chosen: from thumbnails, or from a list where there are
    too many; and apart from it the function, where it has several. `on_change` is called before the page is drawn
    anew."""
    key, keys = f"target-{run.id}", list(run.targets)
    link.follow(key, link.one_of("target", keys, keys[0]))
    ref = run.targets[st.session_state[key]]
    by_name: dict[str, dict[str, TargetRef]] = {}
    for one in run.targets.values():
        by_name.setdefault(one.name, {})[one.function] = one

    def take(name: str | None, function: str | None) -> None:
        """This function of the target, or the first that it has; None is no choice (`link.needed`)."""
        if name is None or function is None:
            return
        functions = by_name[name]
        st.session_state[key] = functions.get(function, next(iter(functions.values()))).key
        on_change()

    if len(by_name) <= target_strip.MOST:
        drawn = [_thumbnail(run, next(iter(functions.values()))) for functions in by_name.values()]
        target_strip.choose(f"strip-{run.id}", "Target", drawn, ref.name, lambda name: take(name, ref.function))
    else:
        _choose_from_list(run, by_name, ref, take)
    _choose_function(run, by_name[ref.name], ref, take)
    _say_gradient(run, ref)
    return ref


def _choose_from_list(run: RunView, by_name: dict[str, dict[str, TargetRef]], ref: TargetRef, take) -> None:
    box = f"target-of-{run.id}"
    firsts = {name: next(iter(functions.values())) for name, functions in by_name.items()}
    titles = {
        name: line(one.target.title(run.dataset)) + _gradient(run, one) + duplicates_twin.short(run, one.target)
        for name, one in firsts.items()
    }
    st.session_state[box] = ref.name
    st.selectbox(
        f"Target, one of {formats.count(len(titles), 'targets')}: type to search",
        list(titles),
        format_func=lambda name: titles[name],
        key=box,
        on_change=lambda: take(st.session_state[box], ref.function),
    )


def _choose_function(run: RunView, functions: dict[str, TargetRef], ref: TargetRef, take) -> None:
    """What of the target is explained; nothing to choose where the run has one function of it."""
    if len(functions) == 1:
        return
    box = f"function-of-{run.id}-{ref.name}"
    st.session_state[box] = ref.function
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Explain its", help=formats.help_text("target function"), width="content")
        st.segmented_control(
            "What of it is explained",
            list(functions),
            format_func=lambda name: line(functions[name].function_in_words(run.dataset)),
            required=True,
            key=box,
            on_change=lambda: take(ref.name, st.session_state[box]),
            label_visibility="collapsed",
        )


def _say_gradient(run: RunView, ref: TargetRef) -> None:
    """How strongly the target answers to the model, beside the run's others of the same function."""
    norm = target_view.gradient_norm(run.manifest, ref)
    if norm is None:
        return
    norms = [
        target_view.gradient_norm(run.manifest, one) for one in run.targets.values() if one.function == ref.function
    ]
    known = [each for each in norms if each is not None]
    place = 1 + sum(each > norm for each in known)
    beside = f", number {place} of the {len(known)} targets of this run" if len(known) > 1 else ""
    st.caption(f"Gradient norm {formats.rounded(norm)}{beside}.", help=formats.help_text("gradient norm"))


def _gradient(run: RunView, ref: TargetRef) -> str:
    """Behind a title; "" where it was not recorded."""
    norm = target_view.gradient_norm(run.manifest, ref)
    return "" if norm is None else f" · gradient {formats.rounded(norm)}"


# -- thumbnails


def _thumbnail(run: RunView, ref: TargetRef) -> target_strip.Thumbnail:
    """A target as the strip shows it: its image and what the model made of it; of a set, its first images. One that
    cannot be shown stands there by its name: chosen, it says what is wrong with it."""
    title = line(ref.target.title(run.dataset)) + _gradient(run, ref) + duplicates_twin.short(run, ref.target)
    words = _in_short(run, ref.target)
    try:
        glance = target_view.glance(run.manifest, run.dataset, ref.target)
        images = tuple(_images(run, ref, glance))
    except ReplayError:
        return target_strip.Thumbnail(ref.name, title, words)
    if glance.predicted is None:
        return target_strip.Thumbnail(ref.name, title, words, images)
    predicted = line(run.dataset.classes[glance.predicted])
    return target_strip.Thumbnail(
        ref.name, f"{title}, predicted {predicted}", words, images, glance.predicted == glance.label
    )


def _in_short(run: RunView, target: Target) -> str:
    """A few words below a thumbnail."""
    classes, labels = run.dataset.classes, {TEST: run.dataset.test_labels, TRAIN: run.dataset.train_labels}
    match target:
        case AllTests():
            return "All tests"
        case Confusion():
            return line(f"{classes[target.label]} → {classes[target.predicted]}")
        case TestImage():
            return line(classes[labels[TEST][target.index]])
        case TrainImage():
            return line(classes[labels[TRAIN][target.index]])
        case ClassOfTests() | UploadedImage():
            return line(classes[target.label])
        case _:
            return line(target.title(run.dataset))


def _images(run: RunView, ref: TargetRef, glance: target_view.Glance) -> list[str]:
    if isinstance(ref.target, UploadedImage):
        return [pictures.data_url(uploads.read(run.folder, ref.target.image_id))]
    few = glance.members.indices[:MOSAIC].tolist()
    return [pictures.image_url(run.dataset, glance.members.split, index) for index in few]

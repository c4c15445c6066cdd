"""Step 4 of the form: what is explained. Test images are picked by looking at them; sets and others by their names."""

from collections.abc import Sequence

import numpy as np
import streamlit as st

from engine.analysis import target_view
from engine.config import window_phrase, window_start
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.run import Run
from engine.targets import Target, TestImage, TrainImage, read_targets, split_targets
from ui import docs, formats, gallery, paging, pictures, setup_draft, setup_fields, shell, targets_form
from ui.paging import EVERY, class_name
from ui.setup_draft import Form
from ui.text import line, plain

ALL_IMAGES, WRONG_IMAGES = "All test images", "Misclassified by an earlier run"
A_PAGE = 24  # test images to pick from
SHOWN = 32  # of the images chosen
LISTED = 500  # classes, at most, in a list


def draw(form: Form) -> None:
    """Everything of this step. Without its data there is nothing to pick from, and the choice stands by its names."""
    if form.dataset is None:
        st.caption(f"Chosen: {plain(', '.join(form.config.targets))}")
        return
    draw_chosen(form, form.dataset)
    with st.expander("Choose by looking", key="by-looking", on_change="rerun") as looking:
        if looking.open or looking.open is None:
            choose_by_looking(form, form.dataset)
    choose_sets(form, form.dataset)
    type_targets(form, form.dataset)
    targets_form.ask_function(
        form.dataset.classes, "set-new", form.config.target_function, take_function, form.disabled
    )
    setup_fields.remarks(form, "target_function")
    choose_window(form, form.dataset)


def choose_window(form: Form, dataset: Dataset) -> None:
    """From where the images' weights count, and what the scores then are."""
    setup_fields.fields(form, ["window"], across=1)
    if form.problems.keys() & {"window", "recipe.epochs", "recipe.batch_size"}:
        return
    recipe = form.config.recipe
    steps = recipe.epochs * (dataset.sizes.n_train // recipe.batch_size)
    start = window_start(form.config, steps)
    if phrase := window_phrase(start, steps):
        st.caption(
            f"Scores will be the **{plain(phrase)}**: what the images do from step {start + 1:,} of {steps:,} on. The "
            f"{start:,} steps before are trained, and are the same in every retraining."
        )
        docs.show("window.md", "What a window says", "What a window says, and what it does not")


def take_function(text: str) -> None:
    setup_draft.change("target_function", text)


def chosen() -> list[str]:
    return list(setup_draft.now().config.targets)


def toggle(name: str) -> None:
    before = chosen()
    choose([each for each in before if each != name] if name in before else [*before, name])


def choose(targets: Sequence[str]) -> None:
    setup_draft.change("targets", tuple(targets))


# -- what is chosen


def draw_chosen(form: Form, dataset: Dataset) -> None:
    targets = form.config.targets
    parsed = [_parsed(text) for text in targets]
    for split, kind in (("test", TestImage), ("train", TrainImage)):
        images = [each.index for each in parsed if isinstance(each, kind) and each.index < len(dataset.labels(split))]
        if images:
            pictures.plain_tiles(dataset, split, images[:SHOWN])
    st.caption(
        f"{formats.count(len(targets), 'targets')} chosen: {plain(', '.join(targets[:SHOWN])) or 'none yet'}"
        f"{'' if len(targets) <= SHOWN else f' and {len(targets) - SHOWN:,} more'}"
    )
    setup_fields.remarks(form, "targets")
    draw_of_other_data(form)
    others = [text for text, each in zip(targets, parsed, strict=True) if not isinstance(each, TestImage)]
    others = list(dict.fromkeys(others))  # a file may name one twice, which is said above
    with st.container(horizontal=True):
        st.button(
            "Clear",
            key="clear-targets",
            icon=":material/clear_all:",
            on_click=choose,
            args=((),),
            **shell.acting(disabled=not targets),
        )
        one_each = tuple(f"test:{index}" for index in _one_of_each_class(dataset))
        if len(one_each) <= SHOWN:
            st.button(
                "One test image of each class",
                key="one-of-each-class",
                on_click=choose,
                args=(one_each,),
                **shell.acting(),
            )
        for text in others[:SHOWN]:
            st.button(
                plain(text),
                key=f"drop-{text}",
                icon=":material/close:",
                on_click=toggle,
                args=(text,),
                **shell.acting(help="Takes it away."),
            )


def draw_of_other_data(form: Form) -> None:
    """Targets that were picked among other images are kept, and may now be nonsense."""
    other = form.draft.targets_of
    if "targets" in form.draft.changes and other not in ("", form.config.dataset):
        st.warning(
            f"You chose these targets for the data set {plain(other)}: here the same numbers are other images.",
            icon=":material/warning:",
        )
        st.button("Take the proposed targets", on_click=setup_draft.put_back, args=("targets",), **shell.acting())


def _parsed(text: str):
    try:
        return Target.parse(text)
    except ConfigError:
        return None


def _one_of_each_class(dataset: Dataset) -> list[int]:
    return np.unique(dataset.test_labels, return_index=True)[1].tolist()


# -- by looking


def choose_by_looking(form: Form, dataset: Dataset) -> None:
    indices, source = offered_images(form, dataset)
    page = paging.choose(len(indices), f"look-{source}", A_PAGE, name=None)
    on_page = list(paging.of_page(indices, page, A_PAGE))
    names = set(form.config.targets)
    tiles = [
        gallery.Tile(
            "test",
            index,
            f"{index}",
            (dataset.classes[dataset.test_labels[index]],),
            tuple((what, text) for what, text in (("Image", f"test:{index}"), ("File", _file(dataset, index))) if text),
        )
        for index in on_page
    ]
    if tiles:
        gallery.show(
            dataset,
            tiles,
            "set-tests",
            size=84,
            ticked=[index for index in on_page if f"test:{index}" in names],
            on_tick=None if form.disabled else take_ticks,
        )


def _file(dataset: Dataset, index: int) -> str:
    return dataset.file_name("test", index) or ""


def take_ticks(ticks: dict[int, bool]) -> None:
    targets = chosen()
    for index, on in ticks.items():
        name = f"test:{index}"
        if on and name not in targets:
            targets.append(name)
        elif not on and name in targets:
            targets.remove(name)
    choose(targets)


def offered_images(form: Form, dataset: Dataset) -> tuple[Sequence[int], str]:
    """Test indices to choose from, filtered by class or to the mistakes of a finished run, and a name of the filter."""
    what, which = st.columns(2)
    source = what.selectbox("Show", [ALL_IMAGES, WRONG_IMAGES], disabled=form.disabled)
    if source == ALL_IMAGES:
        label = which.selectbox("Class", [EVERY, *dataset.classes], format_func=class_name, disabled=form.disabled)
        number = paging.label_number(label, dataset.classes)
        return paging.of_class(dataset.test_labels, number).tolist(), f"class-{number}"
    runs = [run.id for run in shell.all_runs() if run.trained and run.dataset == dataset.name]
    if not runs:
        which.info("No run of this data set has been trained yet.")
        return (), source
    run_id = which.selectbox("Run", runs)
    manifest = Run.open(shell.root(), run_id).manifest()
    return target_view.misclassified(manifest, dataset).tolist(), run_id


# -- by name


def choose_sets(form: Form, dataset: Dataset) -> None:
    # A list of thousands would be sent to the browser each time: then classes are named below.
    few = dataset.sizes.n_classes <= LISTED
    classes = dataset.classes if few else ()
    titles = {"test:all": ALL_IMAGES}
    titles |= {f"class:{c}": line(f"All test images of {name}") for c, name in enumerate(classes)}
    setup_fields.show("sets", [name for name in form.config.targets if name in titles])
    st.multiselect(
        "Sets, which are averaged over",
        list(titles),
        key="sets",
        format_func=titles.__getitem__,
        placeholder="all test images, or those of a class" if few else "all test images; those of a class by its name",
        help="«All test images» is what Find bad labels needs.",
        on_change=take_sets,
        args=(tuple(titles),),
        disabled=form.disabled,
    )


def take_sets(names: tuple[str, ...]) -> None:
    choose([*(name for name in chosen() if name not in names), *dict.fromkeys(st.session_state["sets"])])


def type_targets(form: Form, dataset: Dataset) -> None:
    """Targets by their texts: what a row of pictures cannot offer."""
    st.text_input(
        "More targets",
        key="typed_targets",
        placeholder="test:0-9, train:17, confusion:coat>shirt",
        help=targets_form.HELP,
        on_change=take_typed,
        args=(dataset,),
        disabled=form.disabled,
    )
    if problem := st.session_state.pop("typed_problem", ""):
        st.error(plain(problem), icon=":material/error:")


def take_typed(dataset: Dataset) -> None:
    try:
        typed = map(str, read_targets(split_targets(st.session_state["typed_targets"]), dataset))
        choose(list(dict.fromkeys([*chosen(), *typed])))
        st.session_state["typed_targets"] = ""
    except ConfigError as error:
        st.session_state["typed_problem"] = str(error)

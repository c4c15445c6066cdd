"""Data: bring images of your own, see what is in a data set and what is wrong with it, delete what was prepared."""

from pathlib import Path

import streamlit as st

from engine import config as configs
from engine.config import Recipe, RunConfig
from engine.datasets import archive, corrected, preparing, registry, store
from engine.datasets.archive import SUFFIXES
from engine.datasets.names import COLOURS, DEFAULTS, FITS, DatasetName
from engine.files import size_of
from ui import augment_form, cards, formats, gallery, link, paging, pictures, shell
from ui.paging import EVERY, class_name
from ui.text import line, plain

A_PAGE = 24
AUGMENTED = 6  # training images that are shown augmented
GROUPS = 12  # of duplicates that are shown as pictures; all are in the table
ROWS = 1000  # of problems that a table shows
SPLITS = {"train": "Training", "test": "Test"}
SOURCES = {
    "folder": "A folder on this machine",
    "archive": "An archive from yours",
    "name": "By its name",
}
LAYOUT = "One folder for each class, with its images in it; or `train` and `test`, each with such folders."
KINDS = {
    "unreadable": "Files that cannot be read",
    "duplicate": "Images that are the same",
    "empty class": "Classes without images",
    "no test images": "Classes without test images",
    "no training images": "Classes without training images",
    "link": "Links, which are not followed",
    "no file": "Things that are no files",
    "no class": "Images outside the class folders",
    "nested folder": "Folders below a class",
    "ignored": "Files and folders that are not read",
}


def image_options() -> tuple[tuple[str, str], ...]:
    """How files become images: options of the data set's name, those alone that are not the defaults."""
    with st.expander("How files become images"):
        first, second, third = st.columns(3)
        side = first.text_input(
            "Side in pixels", placeholder="chosen from the files", help="64, or 96x64 for width × height."
        )
        fit = second.selectbox("Fit", list(FITS), help="; ".join(f"{name}: {what}" for name, what in FITS.items()))
        colour = third.selectbox("Colour", COLOURS, help="auto: grey where no file has a pixel of another colour.")
        ground = first.text_input(
            "Ground",
            DEFAULTS.ground,
            help="Under transparent parts, beside padded ones: white, black, grey, #rrggbb.",
        )
        test = second.number_input(
            "Fraction for testing",
            0.01,
            0.99,
            DEFAULTS.test,
            0.05,
            help="Of each class, where there is no test split.",
        )
        seed = third.number_input("Seed of that fraction", 0, 2**31 - 1, DEFAULTS.seed, 1)
    values = {"side": side.strip(), "fit": fit, "ground": ground.strip(), "color": colour, "test": f"{test:g}"}
    values["seed"] = f"{seed}"
    return tuple((key, value) for key, value in values.items() if value != f"{getattr(DEFAULTS, key)}")


def add() -> None:
    source = st.segmented_control(
        "Where from",
        list(SOURCES),
        default="folder",
        required=True,
        format_func=lambda kind: SOURCES[kind],
        key="source",
    )
    if source == "folder":
        place = st.text_input("Folder", placeholder="/data/pets", help="A path on the machine that runs this app.")
        st.caption(LAYOUT)
        options = image_options()
        ready = bool(place.strip())

        def start() -> preparing.Preparation:
            return preparing.add(str(DatasetName("folder", place.strip(), options)))

    elif source == "archive":
        file = st.file_uploader(
            "Zip or tar of a folder",
            type=[suffix.removeprefix(".") for suffix in SUFFIXES],
            help="It is unpacked into the app's data folder; links and other odd things in it are refused.",
        )
        st.caption(LAYOUT)
        options = image_options()
        ready = file is not None

        def start() -> preparing.Preparation:
            assert file is not None, "the button is disabled without one"
            return preparing.add_archive(file, file.name, options)

    else:
        name = st.text_input("Name", placeholder="table:/data/labels.csv?side=64")
        st.caption("folder:DIR, table:FILE, arrays:FILE.npz, torchvision:NAME or hf:NAME_OR_DIR, with options.")
        ready = bool(name.strip())

        def start() -> preparing.Preparation:
            return preparing.add(name.strip())

    if st.button("Add", type="primary", icon=":material/add:", **shell.acting(disabled=not ready)):
        with shell.guarded():
            begin(start())


def begin(preparation: preparing.Preparation) -> None:
    """Remembers that this tab asked for it: it is taken there when it is done."""
    st.session_state.setdefault("data-begun", set()).add(preparation.key)
    st.rerun()


@st.fragment(run_every="1s")
def on_their_way() -> None:
    """What is being prepared in this process, by whatever tab; this one is drawn again when one of its own is done."""
    asked = st.session_state.setdefault("data-begun", set())
    for preparation in preparing.preparations.all():
        with st.container(border=True):
            st.markdown(f"**{plain(preparation.key)}**")
            if not preparation.finished.is_set():
                share = preparation.done / preparation.of if preparation.of else 0.0
                left = formats.duration(preparation.seconds_left)
                st.progress(min(share, 1.0), text=f"{preparation.done:,} of {preparation.of:,}, {left} left")
                st.button(
                    "Cancel",
                    key=f"cancel-{preparation.key}",
                    on_click=preparation.cancelled.set,
                    icon=":material/close:",
                )
                continue
            if preparation.error is not None:
                shell.show_error(preparation.error.what, preparation.error.remedy, preparation.details or None)
            elif preparation.key in asked:
                asked.remove(preparation.key)
                preparing.preparations.forget(preparation.key)
                st.session_state["data-new"] = preparation.name
                st.rerun(scope="app")
            else:
                st.caption("It is ready, and in the list below.")
            st.button(
                "Dismiss",
                key=f"dismiss-{preparation.key}",
                on_click=preparing.preparations.forget,
                args=(preparation.key,),
            )


def choose() -> str:
    """The data set to look at, of those that are registered or prepared."""
    prepared = {one.name: one for one in store.prepared_sets()}
    names = [*prepared, *(one.name for one in corrected.all_there()), *registry.DATASETS.names()]
    asked = link.one_of("data", names, names[0])
    if (new := st.session_state.pop("data-new", None)) in names:
        st.session_state["data-choice"] = new
    link.follow("data-choice", asked)

    def label(name: str) -> str:
        return line(f"{prepared[name].title} · {name}" if name in prepared else name)

    name = st.selectbox("Data set", names, format_func=label, key="data-choice")
    link.keep(data=name)
    return name


def facts(dataset) -> None:
    height, width, channels = dataset.image_shape
    shell.metrics(
        {
            "Training images": f"{dataset.sizes.n_train:,}",
            "Test images": f"{dataset.sizes.n_test:,}",
            "Classes": f"{dataset.sizes.n_classes:,}",
            "Pixels": f"{width} × {height}",
            "Colour": "grey" if channels == 1 else "RGB",
            "Prepared on disk": formats.size(size_of(dataset.folder)) if dataset.folder else "–",
        }
    )
    st.caption(plain(dataset.source))
    for note in store.notes(dataset):
        st.caption(plain(note))


def samples(dataset) -> None:
    classes = [EVERY, *dataset.classes]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        split = st.segmented_control(
            "Split",
            ["train", "test"],
            default="train",
            required=True,
            format_func=lambda name: SPLITS[name],
        )
        chosen = st.selectbox("Class", classes, format_func=class_name, width=240)
    label = None if chosen == EVERY else dataset.classes.index(chosen)
    indices = paging.of_class(dataset.labels(split), label)
    page = paging.choose(len(indices), f"data-page-{split}-{label}", A_PAGE, name=None)
    tiles = [tile(dataset, split, index) for index in paging.of_page(indices, page, A_PAGE).tolist()]
    gallery.show(dataset, tiles, "data-samples")


def augmented(dataset) -> None:
    """Some training images, as a training with augmentation shows them to the model."""
    with st.expander("Training images, augmented"):
        text = st.session_state.setdefault("data-augmentation", "")
        augment_form.choose(text, dataset.image_shape, "data-augment", keep_augmentation)
        recipe = Recipe(augment=text)
        problems = configs.problems(RunConfig(recipe=recipe), image_shape=dataset.image_shape)
        if "recipe.augment" in problems:
            st.error(f"Augmentation {plain(problems['recipe.augment'])}.")
        elif recipe.augment:
            pictures.augmented(dataset, recipe, range(min(AUGMENTED, dataset.sizes.n_train)))
            st.caption("The image itself, and what each of the first epochs makes of it.")


def keep_augmentation(text: str) -> None:
    st.session_state["data-augmentation"] = text


def tile(dataset, split: str, index: int, below: tuple[str, ...] = ()) -> gallery.Tile:
    label = line(dataset.classes[dataset.labels(split)[index]])
    details = [("Image", f"{split}:{index}"), ("Label", label), *cards.file_of(dataset, split, index)]
    return gallery.Tile(split, index, label, below, tuple(details))


def classes(dataset) -> None:
    train, test = (dataset.counts(split).tolist() for split in ("train", "test"))
    st.dataframe(
        {"Class": [line(name) for name in dataset.classes], "Training": train, "Test": test},
        hide_index=True,
    )


def channels(dataset) -> None:
    names = ["grey"] if dataset.image_shape[2] == 1 else ["red", "green", "blue"]
    st.dataframe(
        {"Channel": names, "Mean": dataset.mean.tolist(), "Standard deviation": dataset.std.tolist()}, hide_index=True
    )
    st.caption("Of the training images, with 0 for black and 1 for white; training subtracts the mean and divides.")


def problems(dataset) -> None:
    found = store.problems(dataset)
    if not found:
        st.caption("Nothing was noticed.")
    for kind, title in KINDS.items():
        records = [problem for problem in found if problem["kind"] == kind]
        if not records:
            continue
        with st.expander(f"{title}: {len(records):,}"):
            st.dataframe(
                {
                    "File": [line(problem["file"]) for problem in records[:ROWS]],
                    "What": [line(problem["detail"]) for problem in records[:ROWS]],
                },
                hide_index=True,
            )
            if kind == "duplicate":
                duplicates(dataset, records)


def duplicates(dataset, records: list[dict]) -> None:
    worst = sorted(records, key=lambda one: (not one["labels_differ"], not one["across_splits"]))[:GROUPS]
    tiles = [
        tile(dataset, image["split"], image["index"], (f"group {number}", image["split"]))
        for number, group in enumerate(worst, 1)
        for image in group["images"][:4]
    ]
    gallery.show(dataset, tiles, "data-duplicates", size=64)


def act(dataset) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            "pages/Set_up_a_run.py",
            label="Set up a run with it",
            icon=":material/tune:",
            query_params={"dataset": dataset.name},
        )
        if dataset.name.startswith(f"{corrected.KIND}:"):
            delete_corrections(dataset.name)
        if dataset.folder is None:
            return
        if st.button("Look at its files again", icon=":material/refresh:", **shell.acting()):
            with shell.guarded():
                begin(preparing.add(dataset.name))
        with st.popover("Delete its prepared files", icon=":material/delete:", **shell.acting()):
            place = Path(DatasetName.parse(dataset.name).place)
            uploaded = archive.unpacked_from(place)
            if uploaded is None:
                frees, sources = size_of(dataset.folder), "The files that it was made from stay;"
            else:
                frees = size_of(dataset.folder) + size_of(uploaded)
                sources = "What was unpacked goes with it, and is the same again once the archive is added again;"
            st.write(f"This frees {formats.size(frees)}. {sources} pages of runs on it need it prepared again.")
            if st.button("Delete them", key=f"delete-{dataset.name}", **shell.acting()):
                with shell.guarded():
                    freed = registry.delete(dataset.name) + archive.discard(place)
                    st.session_state["notice"] = f"{formats.size(freed)} freed."
                    st.query_params.clear()
                    st.session_state.pop("data-choice", None)
                    st.rerun()


def delete_corrections(name: str) -> None:
    with st.popover("Delete these corrections", icon=":material/delete:", **shell.acting()):
        st.write("The data that they are of stay. Pages of runs on them need them made again, by their run's *Triage*.")
        if st.button("Delete them", key=f"delete-{name}", **shell.acting()):
            with shell.guarded():
                st.session_state["notice"] = f"{formats.size(registry.delete(name))} freed."
                st.query_params.clear()
                st.session_state.pop("data-choice", None)
                st.rerun()


with shell.page("Data"):
    with st.expander("Add a data set", expanded=not store.prepared_sets()):
        add()
    on_their_way()
    name = choose()
    dataset = None
    with shell.guarded():
        dataset = pictures.dataset(name)
    if dataset is not None:
        facts(dataset)
        act(dataset)
        st.header("Images")
        samples(dataset)
        augmented(dataset)
        st.header("Problems")
        problems(dataset)
        left, right = st.columns(2)
        with left:
            st.header("Classes")
            classes(dataset)
        with right:
            st.header("Channels")
            channels(dataset)

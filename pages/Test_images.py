"""Test images: browse them by what the model makes of them, explain some, or bring an image of your own."""

from collections.abc import Iterable

import streamlit as st

from engine.analysis import logits as logit_maths
from engine.analysis import test_images as test_lists
from engine.datasets import raster
from engine.runs import uploads
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage
from ui import (
    cards,
    duplicates_twin,
    explain,
    formats,
    gallery,
    gradients,
    imported,
    link,
    paging,
    pictures,
    run_choice,
    shell,
    ticks,
)
from ui.paging import EVERY, class_name, turn_to_the_first
from ui.run_choice import RunView
from ui.text import line, plain

SMALL_TILES = 32  # of the ticked images
MOST_TICKED = 500  # images that an address names
MISTAKES = 200  # pairs of classes that are listed where there is no matrix
MOST_MEGABYTES = 20  # of an upload


# -- the test images


def draw_list(run: RunView) -> None:
    dataset, logits, norms = run.dataset, run.manifest.test_logits(), gradients.of(run)
    among, order = choose_filters(run, test_lists.ORDERS + (() if norms is None else test_lists.BY_GRADIENT))
    indices, predicted, confidence = test_lists.test_images(logits, dataset.test_labels, among, order, norms)
    if norms is None:
        gradients.draw_measuring(run)
    draw_confusion(run, predicted)
    st.caption(
        f"{formats.count(len(indices), 'test images')} of {len(dataset.test_labels):,} with these filters. Below each: "
        "its true label, what the model takes it for (✓ right, ✗ wrong), and the probability that it gives to that."
        f"{'' if norms is None else ' Gradient: how much there is to explain.'}",
        help=None if norms is None else formats.help_text("gradient norm"),
    )
    page = paging.choose(len(indices), f"page-{run.id}-{hash((among, order))}")
    refs = {ref.name: ref for ref in run.targets.values()}
    tiles = [
        tile_of(run, i, predicted[i], confidence[i], refs.get(f"test:{i}"), norms)
        for i in paging.of_page(indices, page).tolist()
    ]
    if tiles:
        ticking = {"ticked": ticked_of(run), "on_tick": lambda changes: tick(run, changes)}
        gallery.show(dataset, tiles, "tests", **({} if run.manifest.method else ticking))
    else:
        st.info("No test image is left with these filters.", icon=":material/filter_alt_off:")
    link.keep(
        run=run.id,
        wrong=int(among.wrong) or None,
        true=formats.unless(st.session_state["tests-true"], EVERY),
        predicted=formats.unless(st.session_state["tests-predicted"], EVERY),
        order=order,
        page=page,
        ticked=ticked_of(run),
        **{"from": formats.whole_percent(among.low), "to": formats.whole_percent(among.high)},
    )
    link.copy()


def choose_filters(run: RunView, orders: tuple[str, ...]) -> tuple[test_lists.TestFilter, str]:
    classes = [EVERY, *run.dataset.classes]
    for name in ("true", "predicted"):
        link.follow(f"tests-{name}", link.one_of(name, classes, EVERY))
    link.follow(f"wrong-{run.id}", link.one_of("wrong", (0, 1), 0) == 1)
    limits = sorted((link.whole("from", 0, 100, 0), link.whole("to", 0, 100, 100)))
    link.follow(f"confidence-{run.id}", tuple(limits))
    link.follow(f"order-{run.id}", link.one_of("order", orders, "wrong first"))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wrong = st.toggle("Misclassified only", key=f"wrong-{run.id}", on_change=turn_to_the_first)
        order = st.selectbox(
            "Order",
            orders,
            key=f"order-{run.id}",
            width=150,
            on_change=turn_to_the_first,
        )
        labels = [
            st.selectbox(
                f"{name.capitalize()} label",
                classes,
                key=f"tests-{name}",
                width=170,
                on_change=turn_to_the_first,
                format_func=class_name,
            )
            for name in ("true", "predicted")
        ]
        low, high = st.slider(
            "Confidence (%)",
            0,
            100,
            on_change=turn_to_the_first,
            width=240,
            key=f"confidence-{run.id}",
            help=f"The probability of the predicted label. {formats.help_text('probability')}",
        )
    true, predicted = (paging.label_number(label, run.dataset.classes) for label in labels)
    return test_lists.TestFilter(wrong, true, predicted, formats.share(low), formats.share(high)), order


def draw_confusion(run: RunView, predicted) -> None:
    classes, key = run.dataset.classes, f"confusion-{run.id}"
    if len(classes) > pictures.MOST_CLASSES:
        draw_confusions(run, predicted)
        return
    with st.expander("Confusion matrix"):
        pictures.chart(
            pictures.confusion(test_lists.confusion(predicted, run.dataset.test_labels, len(classes)), classes),
            key,
            "Confusion matrix: counts of test images by true and predicted label; the filters above choose a cell",
            lambda: take_cell(key, classes),
        )
        st.caption("Counts of test images; rows: true label, columns: predicted label. Click a cell to see its images.")


def draw_confusions(run: RunView, predicted) -> None:
    """In place of a matrix of thousands of rows."""
    with st.expander("Most frequent mistakes"):
        names = [line(name) for name in run.dataset.classes]
        found = test_lists.confusions(predicted, run.dataset.test_labels, MISTAKES)
        st.dataframe(
            {
                "True label": [names[true] for true, _, _ in found],
                "Predicted label": [names[taken_for] for _, taken_for, _ in found],
                "Test images": [count for _, _, count in found],
            },
            hide_index=True,
        )
        st.caption(f"A matrix is drawn of up to {pictures.MOST_CLASSES} classes.")


def take_cell(key: str, classes: tuple[str, ...]) -> None:
    """A click on a cell of the confusion matrix sets the two choices of classes."""
    if points := st.session_state[key].selection.points:
        st.session_state["tests-true"] = classes[int(points[0]["y"])]
        st.session_state["tests-predicted"] = classes[int(points[0]["x"])]
        turn_to_the_first()


def tile_of(run: RunView, index: int, predicted: int, confidence: float, ref: TargetRef | None, norms) -> gallery.Tile:
    """One test image; `ref` is its target, where it was explained; `norms` of all gradients, where they are known."""
    label = run.dataset.test_labels[index]
    true_label, predicted_label = (line(run.dataset.classes[number]) for number in (label, predicted))
    share = formats.percent(confidence)
    return gallery.Tile(
        "test",
        index,
        true_label,
        (
            f"{'✓' if predicted == label else '✗'} {predicted_label}",
            share,
            *gradients.line(norms, index),
            *duplicates_twin.lines(run, index),
            *(["explained"] if ref else ()),
        ),
        (
            ("Image", f"test:{index}"),
            ("True label", true_label),
            *cards.file_of(run.dataset, "test", index),
            ("Predicted label", f"{predicted_label}, {share}"),
            *gradients.detail(norms, index),
        ),
        link=link.to("Influence", run=run.id, target=ref.key) if ref else "",
        link_text="Influence on this image",
    )


# -- explain some


def read_ticks(run: RunView) -> None:
    """The address has them, so that they survive a reload and «back»; they are the last ones where a person comes from
    another page, whose links have none."""
    key = ticks_key(run)
    if "order" in st.query_params or "ticked" in st.query_params or key not in st.session_state:
        st.session_state[key] = link.numbers("ticked", 0, paging.last(len(run.dataset.test_labels)), MOST_TICKED)


def ticks_key(run: RunView) -> str:
    return f"ticked-tests-{run.id}"


def ticked_of(run: RunView) -> tuple[int, ...]:
    """Indices of test images, in the order in which they were ticked."""
    return st.session_state[ticks_key(run)]


def tick(run: RunView, changes: dict[int, bool]) -> None:
    left = [index for index in ticked_of(run) if changes.get(index, True)]
    keep_ticks(run, dict.fromkeys([*left, *(index for index, on in changes.items() if on)]))


def keep_ticks(run: RunView, indices: Iterable[int] = ()) -> None:
    ticked = tuple(indices)[:MOST_TICKED]
    st.session_state[ticks_key(run)] = ticked
    st.query_params["ticked"] = ",".join(map(str, ticked))


def draw_ticked(run: RunView) -> None:
    """What is ticked, and the replay that explains it, at the bottom of the view."""
    if run.manifest.method:
        imported.say(run.manifest, "explaining further test images")
        return
    ticked = sorted(ticked_of(run))
    if not ticked:
        text = (
            "No test image is ticked: tick those to explain. One replay finds the training images behind all of them."
        )
    else:
        text = f"{formats.count(len(ticked), 'test images')} ticked"
    with ticks.strip(text, "explain"):
        if not ticked:
            return
        with st.popover(f"Explain {formats.count(len(ticked), 'test images')}", icon=":material/search:"):
            pictures.plain_tiles(run.dataset, "test", ticked[:SMALL_TILES])
            if ticked[SMALL_TILES:]:
                st.caption(f"The first {SMALL_TILES} of them.")
            explain.choose(run, tuple(f"test:{index}" for index in ticked), "tests")
        st.button("Clear", key="tests-clear", icon=":material/clear:", on_click=keep_ticks, args=(run,))


# -- an image of one's own


def draw_own_image(run: RunView) -> None:
    st.header("An image of your own")
    if not run.manifest.has_model:
        st.caption(plain(shell.away(run.manifest)))
        return
    file = st.file_uploader(
        "Image file",
        key=f"own-{run.id}",
        max_upload_size=MOST_MEGABYTES,
        help=f"{raster.KINDS} Up to {MOST_MEGABYTES} MB and {formats.megapixels(raster.MOST_PIXELS)}. It stays on this "
        "machine, with the run.",
    )
    if file is None:
        st.caption("Ask which training images made the model see what it sees in it.")
        return
    content, key, form = file.getvalue(), f"{run.id}-{file.file_id}", run.dataset.form
    invert = st.toggle(
        "Dark on a light ground: invert it",
        form is None and uploads.is_light(content),
        key=f"invert-{key}",
        help="For a data set of things that are light on black.",
    )
    prepared = uploads.prepare(content, run.dataset.image_shape, invert, form)
    draw_preparation(content, prepared)
    ask_about(run, prepared.image, key)


def draw_preparation(content: bytes, prepared: uploads.Prepared) -> None:
    before, after, words = st.columns([1, 1, 2], gap="large")
    with before:
        st.caption("Your file")
        st.image(uploads.thumbnail(content), width=160, alt="The uploaded file, upright")
    with after:
        st.caption("As the model sees it")
        st.html(pictures.array_picture(prepared.image, "The uploaded image, prepared as the data set's", 160))
    with words:
        st.caption("What was done")
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in prepared.done))


def ask_about(run: RunView, image, key: str) -> None:
    """What the model says of the image, and the label whose loss or margin is to be explained."""
    classes = run.dataset.classes
    shares = predicted_shares(run, image)
    st.html(pictures.probabilities(shares, classes))
    label = st.selectbox(
        "Label to ask about",
        classes,
        index=int(shares.argmax()),
        key=f"label-{key}",
        format_func=line,
        help="The loss or the margin of this label is the target.",
    )
    st.caption("The prepared image is kept with the run once you explain it.")
    explain.choose(
        run,
        (),
        "own",
        "Explain this image",
        lambda: (str(UploadedImage(uploads.keep(run.folder, image), classes.index(label))),),
    )


def predicted_shares(run: RunView, image):
    """The probability of each class, [C]; an image is predicted once, not at each drawing of the page."""
    from engine.jobs import predict

    model = run.manifest.training_digest
    known = st.session_state.setdefault("predictions", {})
    key = (run.id, model, image.tobytes())
    if key not in known:
        known.clear()  # of another image
        (known[key],) = logit_maths.softmax(predict.logits(run.folder, image[None]))
    return known[key]


with shell.page("Test images"):
    run = run_choice.chosen("There is no run to look at yet.")
    imported.stop_without(run.manifest)
    if not run.manifest.trained and not run.manifest.method:
        st.info(
            f"This run has not been trained to its end; it is {plain(run.manifest.status)}.", icon=":material/info:"
        )
        run_choice.link_to_live(run)
        st.stop()
    read_ticks(run)
    for draw in (draw_list, draw_own_image, draw_ticked):
        with shell.guarded():
            draw(run)

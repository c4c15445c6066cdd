"""Test images: browse them by what the model makes of them, explain some, or bring an image of your own."""

import streamlit as st

from engine.analysis import logits as logit_maths
from engine.analysis import test_images as test_lists
from engine.runs import uploads
from engine.targets import UploadedImage
from ui import explain, formats, gallery, link, paging, pictures, shell
from ui.text import plain

A_PAGE = 24
EVERY = "All classes"
MOST_BYTES = 20  # MB of an upload


def chosen_of(run) -> set[int]:
    return st.session_state.setdefault(f"chosen-tests-{run.id}", set())


def choose(run, changes: dict[int, bool]) -> None:
    for index, on in changes.items():
        (chosen_of(run).add if on else chosen_of(run).discard)(index)


def from_the_first() -> None:
    st.query_params["page"] = "1"


def cell_chosen(key: str, classes) -> None:
    """A click on a cell of the confusion matrix sets the two choices of classes."""
    if points := st.session_state[key].selection.points:
        st.session_state["tests-true"], st.session_state["tests-predicted"] = (
            classes[int(points[0][axis])] for axis in "yx"
        )
        from_the_first()


def filters(run, dataset, logits) -> tuple[test_lists.TestFilter, str]:
    classes = [EVERY, *dataset.classes]
    for name in ("true", "predicted"):
        link.follow(f"tests-{name}", link.one_of(name, classes, EVERY))
    limits = sorted((link.whole("from", 0, 100, 0), link.whole("to", 0, 100, 100)))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wrong = st.toggle(
            "Misclassified only", link.one_of("wrong", (0, 1), 0) == 1, key=f"wrong-{run.id}", on_change=from_the_first
        )
        true = st.selectbox("True label", classes, key="tests-true", width=170, on_change=from_the_first)
        predicted = st.selectbox("Predicted label", classes, key="tests-predicted", width=170, on_change=from_the_first)
        low, high = st.slider(
            "Confidence (%)",
            0,
            100,
            limits,
            on_change=from_the_first,
            width=240,
            key=f"confidence-{run.id}",
            help="The probability of the predicted label.",
        )
        order = st.selectbox(
            "Order",
            test_lists.ORDERS,
            key=f"order-{run.id}",
            width=150,
            on_change=from_the_first,
            index=test_lists.ORDERS.index(link.one_of("order", test_lists.ORDERS, "wrong first")),
        )
    numbers = [None if label == EVERY else dataset.classes.index(label) for label in (true, predicted)]
    return test_lists.TestFilter(wrong, *numbers, *map(formats.share, (low, high))), order


def browse(run, dataset) -> None:
    record = run.manifest()
    logits = record.test_logits()
    chosen, order = filters(run, dataset, logits)
    found, predicted, confidence = test_lists.test_images(logits, dataset.test_labels, chosen, order)
    with st.expander("Confusion matrix", icon=":material/grid_on:"):
        key = f"confusion-{run.id}"
        counts = test_lists.confusion(predicted, dataset.test_labels, len(dataset.classes))
        pictures.chart(
            pictures.confusion(counts, dataset.classes),
            key,
            "Confusion matrix: counts of test images by true and predicted label; the filters above choose a cell",
            lambda: cell_chosen(key, dataset.classes),
        )
        st.caption("Counts of test images; rows: true label, columns: predicted label. Click a cell to see its images.")
    targets = {t.name: t for t in record.score_sets.targets()}
    st.caption(f"{formats.count(len(found), 'test images')} of {len(dataset.test_labels):,} with these filters.")
    pages = paging.pages(len(found), A_PAGE)
    page = link.whole("page", 1, pages, 1)
    if pages > 1:
        page = st.pagination(pages, default=page, key=f"page-{run.id}-{hash((chosen, order))}")
    tiles = []
    for i in paging.of_page(found, page, A_PAGE).tolist():
        target = targets.get(f"test:{i}")
        right = "✓" if predicted[i] == dataset.test_labels[i] else "✗"
        tiles.append(
            gallery.Tile(
                "test",
                i,
                dataset.classes[dataset.test_labels[i]],
                (
                    f"{right} {dataset.classes[predicted[i]]}",
                    formats.percent(confidence[i]),
                    *(["explained"] if target else []),
                ),
                (
                    ("Image", f"test:{i}"),
                    ("True label", dataset.classes[dataset.test_labels[i]]),
                    ("Predicted label", f"{dataset.classes[predicted[i]]}, {formats.percent(confidence[i])}"),
                ),
                link=link.to("Influence", run=run.id, target=target.key) if target else "",
                link_text="Influence on this image",
            )
        )
    if tiles:
        gallery.show(dataset.name, tiles, "tests", ticked=chosen_of(run), on_tick=lambda changes: choose(run, changes))
    else:
        st.info("No test image is left with these filters.", icon=":material/filter_alt_off:")
    link.keep(
        run=run.id,
        wrong=int(chosen.wrong) or None,
        true=formats.unless(st.session_state["tests-true"], EVERY),
        predicted=formats.unless(st.session_state["tests-predicted"], EVERY),
        order=order,
        page=page,
        **{"from": formats.whole_percent(chosen.low), "to": formats.whole_percent(chosen.high)},
    )
    link.copy()


def explain_ticked(run) -> None:
    ticked = sorted(chosen_of(run))
    st.subheader("Explain these")
    if not ticked:
        st.caption("Tick test images: one replay finds the training images behind all of them.")
        return
    st.caption(f"{formats.count(len(ticked), 'test images')} ticked: {', '.join(f'test:{i}' for i in ticked)}.")
    st.button("Clear", icon=":material/clear:", on_click=chosen_of(run).clear)
    explain.choose(run, tuple(f"test:{i}" for i in ticked), "tests")


def own_image(run, dataset) -> None:
    st.subheader("An image of your own")
    file = st.file_uploader(
        "Image file",
        key=f"own-{run.id}",
        max_upload_size=MOST_BYTES,
        help=f"PNG, JPEG, WebP, BMP, TIFF or GIF, up to {MOST_BYTES} MB and "
        f"{formats.megapixels(uploads.MOST_PIXELS)}. It stays on this machine, with the run.",
    )
    if file is None:
        st.caption("Ask which training images made the model see what it sees in it.")
        return
    content = file.getvalue()
    invert = st.toggle(
        "Dark on a light ground: invert it",
        uploads.is_light(content),
        key=f"invert-{run.id}-{file.file_id}",
        help="The images of this data set are light on black.",
    )
    prepared = uploads.prepare(content, dataset.test_images.shape[1:], invert)
    from engine.jobs import predict

    (shares,) = logit_maths.softmax(predict.logits(run, prepared.image[None]))
    before, after, said = st.columns([1, 1, 2], gap="large")
    with before:
        st.caption("Your file")
        st.image(uploads.thumbnail(content), width=160, alt="The uploaded file, upright")
    with after:
        st.caption("As the model sees it")
        st.html(pictures.array_picture(prepared.image, "The uploaded image, prepared as the data set's", 160))
    with said:
        st.caption("What was done")
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in prepared.done))
    pictures.chart(
        pictures.probabilities(shares, dataset.classes),
        "own-probabilities",
        formats.shares_in_words(dataset.classes, shares),
    )
    label = st.selectbox(
        "Label to ask about",
        dataset.classes,
        index=int(shares.argmax()),
        key=f"label-{run.id}-{file.file_id}",
        help="The loss or the margin of this label is the target.",
    )
    st.caption("The prepared image is kept with the run once you explain it.")
    explain.choose(
        run,
        (),
        "own",
        "Explain this image",
        lambda: (str(UploadedImage(uploads.keep(run, prepared.image), dataset.classes.index(label))),),
    )


def draw(run) -> None:
    record = run.manifest()
    dataset = pictures.dataset(record.config.dataset)
    if not record.trained:
        st.info(f"This run has not been trained to its end; it is {plain(record.status)}.", icon=":material/info:")
        st.page_link(
            "pages/Live.py", label="See it on Live", query_params={"run": run.id}, icon=":material/monitoring:"
        )
        return
    for part in (lambda: browse(run, dataset), lambda: explain_ticked(run), lambda: own_image(run, dataset)):
        with shell.guarded():
            part()


with shell.page("Test images"):
    draw(shell.chosen_run(shell.runs(), "There is no run to look at yet."))

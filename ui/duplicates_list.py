"""Groups of images that are alike, a row each: order, filters and page, all of them in the link; and what is ticked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from engine.analysis import duplicates
from engine.analysis.duplicates import BY_INFLUENCE, ORDERS, WHERE, Duplicates
from engine.datasets import store
from engine.errors import IntegrityError
from engine.runs.scores import TargetRef
from engine.targets import target_function
from ui import cards, folding, formats, gallery, link, paging, shell, ticks
from ui.duplicates_form import TITLES
from ui.paging import turn_to_the_first
from ui.run_choice import RunView
from ui.text import line, plain

A_PAGE = 8  # groups
FIRST = 6  # images of a group that stand in its row
SIZE = 72  # CSS pixels of a tile
MOST_CLASSES = 4  # of a group that are named


@dataclass(frozen=True)
class Shown:
    """What the page is about. `rows` (`duplicates.table`) are the groups that the filters leave, in their order;
    `group` is the one that is shown alone, None where all are; `ref` the target whose scores are summed, None of a run
    without scores."""

    found: Duplicates
    rows: pd.DataFrame
    ref: TargetRef | None
    group: int | None
    order: str
    where: str
    differ: bool


def known(run: RunView) -> dict[str, Duplicates]:
    """What was found, by way; a damaged file is said once on the page."""
    found = {}
    for by in duplicates.ways(run.manifest):
        try:
            found[by] = duplicates.known(run.manifest, by)
        except IntegrityError as error:
            shell.show_error_once(error.what, error.remedy)
    return {by: each for by, each in found.items() if each is not None}


# -- what is looked at


def choose(run: RunView, ways: dict[str, Duplicates]) -> Shown:
    state, keys = st.session_state, list(run.targets)
    newest = list(ways)[-1]
    link.follow(f"dup-by-{run.id}", link.one_of("by", ways, newest))
    orders = [order for order in ORDERS if run.targets or order not in BY_INFLUENCE]
    link.follow(f"dup-order-{run.id}", link.one_of("order", orders, "size"))
    link.follow(f"dup-where-{run.id}", link.one_of("where", WHERE, "all"))
    link.follow(f"dup-differ-{run.id}", link.one_of("differ", ("yes",), None) is not None)
    if keys:
        link.follow(f"dup-target-{run.id}", link.one_of("target", keys, keys[0]))
    if len(ways) > 1:
        st.segmented_control(
            "Compared by",
            list(ways),
            key=f"dup-by-{run.id}",
            required=True,
            format_func=TITLES.__getitem__,
            on_change=_another_way,
        )
    found = ways[state[f"dup-by-{run.id}"]]
    with folding.row("Order and filters", _in_words(run)):
        st.selectbox(
            "Order",
            orders,
            key=f"dup-order-{run.id}",
            width=180,
            format_func=ORDERS.__getitem__,
            on_change=turn_to_the_first,
        )
        st.selectbox(
            "Where",
            list(WHERE),
            key=f"dup-where-{run.id}",
            width=200,
            format_func=WHERE.__getitem__,
            on_change=turn_to_the_first,
        )
        st.checkbox("Labels differ", key=f"dup-differ-{run.id}", on_change=turn_to_the_first)
        if keys:
            st.selectbox(
                "Influence on the target",
                keys,
                key=f"dup-target-{run.id}",
                width=320,
                format_func=run.titles.__getitem__,
                on_change=turn_to_the_first,
            )
    ref = run.targets[state[f"dup-target-{run.id}"]] if keys else None
    order, where, differ = (state[f"dup-{name}-{run.id}"] for name in ("order", "where", "differ"))
    rows = _rows(run, found, ref, order, where, differ)
    return Shown(found, rows, ref, _group(found), order, where, differ)


def _another_way() -> None:
    st.query_params.pop("group", None)
    turn_to_the_first()


def _group(found: Duplicates) -> int | None:
    """The one that the link asks for, by its number from 1."""
    number = link.whole("group", 1, max(1, len(found.starts)), 0) if len(found.starts) else 0
    return number - 1 if number else None


def _rows(run: RunView, found: Duplicates, ref: TargetRef | None, order: str, where: str, differ: bool) -> pd.DataFrame:
    content = "" if ref is None else run.manifest.score_sets.sha256(ref.score_set)
    scores_N = None if ref is None else run.manifest.score_sets.row(ref)
    rows = _table(found.sha256, content, ref and ref.row, tuple(run.dataset.classes), found, run.dataset, scores_N)
    sign = 1 if ref is None else target_function(ref.function).harmful_sign
    return duplicates.in_order(duplicates.filtered(rows, where, differ), order, sign)


@st.cache_data(max_entries=8, show_spinner=False)
def _table(sha256: str, scores: str, row: int | None, classes: tuple[str, ...], _found, _dataset, _scores_N):
    """By content: of 60,000 images it takes a moment."""
    return duplicates.table(_found, _dataset, _scores_N)


def _in_words(run: RunView) -> list[str]:
    """What is set otherwise than at first."""
    state, said = st.session_state, []
    if (order := state[f"dup-order-{run.id}"]) != "size":
        said.append(ORDERS[order].lower())
    if (where := state[f"dup-where-{run.id}"]) != "all":
        said.append(WHERE[where].lower())
    if state[f"dup-differ-{run.id}"]:
        said.append("labels differ")
    if run.targets and (key := state[f"dup-target-{run.id}"]) != next(iter(run.targets)):
        said.append(f"influence on {run.titles[key]}")
    return said


def keep_link(run: RunView, shown: Shown, page: int) -> None:
    link.keep(
        run=run.id,
        target=shown.ref.key if shown.ref else None,
        by=shown.found.by,
        order=formats.unless(shown.order, "size"),
        where=formats.unless(shown.where, "all"),
        differ="yes" if shown.differ else None,
        group=None if shown.group is None else shown.group + 1,
        page=formats.unless(page, 1),
    )


# -- what was found, in numbers


def say(run: RunView, found: Duplicates) -> None:
    spare = len(duplicates.all_but_one(found, range(len(found.starts))))
    shell.metrics(
        {
            "Groups": f"{len(found.starts):,}",
            "Images in them": f"{len(found.images):,}",
            "Training images to spare": f"{spare:,}",
            "Test images with a twin in training": f"{len(found.twins):,} of {found.n_test:,}",
        },
        {
            "Training images to spare": "As many could be left out, and each group would keep one.",
            "Test images with a twin in training": formats.help_text("twin in training"),
        },
    )
    limit = duplicates.limit_in_words(found.by, found.at_most)
    turned = " Turned and mirrored images count, too." if found.turned else ""
    st.caption(
        f"Compared by {plain(found.of)}; alike: {plain(limit)}.{turned} Each image of a group is that near to the "
        "group's first, which is the one to keep; so groups are no chains."
    )
    for sentence in duplicates.in_words(found)[3:]:
        st.caption(plain(sentence))
    unreadable = sum(problem["kind"] == "unreadable" for problem in store.problems(run.dataset))
    if unreadable:
        st.caption(f"{formats.count(unreadable, 'files')} could not be read and are not compared: *Data* lists them.")


# -- the rows


def draw(run: RunView, shown: Shown) -> int:
    """A page of the groups, with what ticks many; its number."""
    if shown.group is not None:
        return _draw_alone(run, shown, shown.group)
    if shown.rows.empty:
        st.info(
            "No two images are alike." if not len(shown.found.starts) else "No group is left with these filters.",
            icon=":material/filter_alt_off:",
        )
        return 1
    _draw_ticking(run, shown)
    place = st.container()
    page = paging.choose(len(shown.rows), f"dup-page-{run.id}-{shown.found.by}-{len(shown.rows)}", A_PAGE)
    on_page = paging.of_page(shown.rows, page, A_PAGE)
    few = {int(group): duplicates.some_of(shown.found, run.dataset, int(group), FIRST) for group in on_page["group"]}
    with place:
        _draw_rows(run, shown, pd.DataFrame(on_page), few)
    return page


def _draw_ticking(run: RunView, shown: Shown) -> None:
    """Of all groups that the filters leave. Those whose labels differ are for a person to look at."""
    sure = shown.rows["group"][shown.rows["labels"] == 1].tolist()
    spare = duplicates.all_but_one(shown.found, sure)
    leaks = duplicates.in_test_too(shown.found, shown.rows["group"].tolist())
    with st.container(horizontal=True):
        _tick(run, f"Keep one of each: tick {formats.count(len(spare), 'images')}", "dup-keep-all", spare)
        _tick(run, f"Tick {formats.count(len(leaks), 'training images')} that are tested on", "dup-leaks", leaks)
    left = len(shown.rows) - len(sure)
    if left:
        st.caption(
            f"In {formats.count(left, 'groups')} labels differ: at most one of them is right. They are left for you to "
            "look at; *Keep the first* ticks the rest of one."
        )


def _tick(run: RunView, label: str, key: str, images: np.ndarray) -> None:
    st.button(
        label,
        key=key,
        icon=":material/check_box:",
        on_click=ticks.add,
        args=(run, images.tolist()),
        **shell.acting(not len(images)),
    )


def _draw_rows(run: RunView, shown: Shown, rows: pd.DataFrame, members: dict) -> None:
    tiles = _tiles(run, shown, members)
    scale = None
    if shown.ref is not None:
        scale = formats.Scale.of(rows["influence"], shown.ref.function)
    row: Any
    for row in rows.itertuples():
        with st.container(border=True, key=f"dup-group-{shown.found.by}-{row.group}", gap="small"):
            _draw_head(run, shown, row, scale)
            _draw_tiles(run, shown, int(row.group), tiles[int(row.group)])


def _draw_head(run: RunView, shown: Shown, row, scale: formats.Scale | None) -> None:
    group = int(row.group)
    images, _ = shown.found.members(group)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{formats.count(int(row.images), 'images')}** · {plain(_facts(shown, row, scale))}")
        with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):  # wrap together
            spare = duplicates.all_but_one(shown.found, [group])
            if len(spare):
                _tick(run, f"Keep the first: tick {len(spare):,}", f"dup-keep-{shown.found.by}-{group}", spare)
            if shown.group is None and len(images) > FIRST:
                st.page_link(
                    "pages/Duplicates.py",
                    label=f"All {len(images):,}",
                    icon=":material/open_in_full:",
                    query_params=_address(run, shown, group),
                )
    classes = duplicates.classes_in_words(shown.found, run.dataset, images)
    names = ", ".join(f"{plain(name)} {count:,}" for name, count in classes[:MOST_CLASSES])
    more = f" and {len(classes) - MOST_CLASSES:,} more" if len(classes) > MOST_CLASSES else ""
    if len(classes) > 1:
        st.markdown(f":material/warning: **Labels differ:** {names}{more}")
    else:
        st.caption(f"Label {names.rpartition(' ')[0]}")


def _address(run: RunView, shown: Shown, group: int) -> dict[str, str]:
    target = {"target": shown.ref.key} if shown.ref else {}
    return {"run": run.id, "by": shown.found.by, "group": str(group + 1), **target}


def _facts(shown: Shown, row, scale: formats.Scale | None) -> str:
    """«3 in training, 2 in test · farthest 3 of 64 bits · helps 1.2 thousandths of a nat together»."""
    places = [f"{count:,} in {name}" for count, name in ((row.training, "training"), (row.test, "test")) if count]
    said = [", ".join(places)]
    farthest = duplicates.distance_in_words(shown.found.by, row.farthest)
    said.append(farthest if shown.found.by == duplicates.EXACT else f"farthest from the first: {farthest}")
    if scale is not None and row.training:
        said.append(f"together: {scale.with_unit(row.influence)}")
    return " · ".join(said)


def _draw_alone(run: RunView, shown: Shown, group: int) -> int:
    """One group, a page of its images at a time."""
    images, distances = shown.found.members(group)
    st.page_link(
        "pages/Duplicates.py",
        label="All groups",
        icon=":material/arrow_back:",
        query_params={name: text for name, text in _address(run, shown, group).items() if name != "group"},
    )
    rows = _rows(run, shown.found, shown.ref, "size", "all", False)
    row = rows.loc[rows["group"] == group]
    place = st.container()
    page = paging.choose(len(images), f"dup-page-{run.id}-{shown.found.by}-group-{group}")
    with place:
        _draw_rows(run, shown, row, {group: (paging.of_page(images, page), paging.of_page(distances, page))})
    return page


# -- tiles


def _tiles(run: RunView, shown: Shown, members: dict) -> dict[int, list[gallery.Tile]]:
    """Of each group, its images: those of training as everywhere, those of test with their labels."""
    n_train, found = shown.found.n_train, shown.found
    training = [(g, i, d) for g, (images, far) in members.items() for i, d in zip(images.tolist(), far) if i < n_train]
    first = set(found.images[found.starts].tolist())
    lines = [(_place(found, i, d, first),) for _, i, d in training]
    drawn = iter(cards.training(run, np.array([i for _, i, _ in training], np.int64), lines) if training else ())
    tiles: dict[int, list[gallery.Tile]] = {group: [] for group in members}
    refs = {ref.name: ref for ref in run.targets.values()}
    for group, (images, far) in members.items():
        for image, distance in zip(images.tolist(), far.tolist(), strict=True):
            if image < n_train:
                tiles[group].append(next(drawn))
            else:
                tiles[group].append(_test_tile(run, image - n_train, _place(found, image, distance, first), refs))
    return tiles


def _place(found: Duplicates, image: int, distance: float, first: set[int]) -> str:
    if image in first:
        return "the first"
    return duplicates.distance_in_words(found.by, distance).replace(" of 64", "")


def _test_tile(run: RunView, index: int, place: str, refs: dict[str, TargetRef]) -> gallery.Tile:
    label, ref = line(run.dataset.classes[run.dataset.test_labels[index]]), refs.get(f"test:{index}")
    return gallery.Tile(
        "test",
        index,
        label,
        ("test", place),
        (("Image", f"test:{index}"), ("True label", label), *cards.file_of(run.dataset, "test", index)),
        link=link.to("Influence", run=run.id, target=ref.key) if ref else "",
        link_text="Influence on this image",
    )


def _draw_tiles(run: RunView, shown: Shown, group: int, tiles: list[gallery.Tile]) -> None:
    """Training images, which can be ticked, and below them test images, which cannot."""
    training, test = ([tile for tile in tiles if tile.split == split] for split in ("train", "test"))
    key = f"dup-{shown.found.by}-{group}"
    if training:
        ticks.tiles(run, training, key, SIZE, cards.OUTWARDS)
    if test:
        gallery.show(run.dataset, test, f"{key}-test", size=SIZE)

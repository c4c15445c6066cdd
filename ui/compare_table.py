"""Any number of runs in one table: filtered, seeds folded, a column for each setting that differs.

What the table shows is what everything below it is about: two rows that are chosen can be compared, *Only these* keeps
those that are chosen, and the images that matter are those of the runs that are shown.
"""

import datetime
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import streamlit as st

from engine.analysis import compare, many, overlap, trust
from engine.analysis.many import Entry, Filter, Group
from engine.errors import ReplayError
from engine.runs.run import STATUSES, Run
from ui import compare_images, compare_scores, docs, download, folding, formats, link, run_choice, run_names, shell
from ui.run_choice import RunView
from ui.text import line, plain

COLUMNS = 8  # for settings that differ; of more, the others are in the recipe's words
MOST_LISTS = 50  # runs whose lists are held against each other: their scores are opened
LONGEST = 200  # characters that a link may look for
RANK, LINEAR, COMMON = "Rank correlation with A", "Linear correlation with A", "Targets in common"
UNKNOWN = "not known yet"  # verdict of a run without scores

Agreements = Mapping[str, compare.Summed | str]  # with A, by the run's id; a text says why there is none


def draw(a: RunView) -> dict:
    """Returns what the link says beside the first run."""
    listed = many.entries(shell.root(), shell.all_runs())
    names = run_names.labels(shell.all_runs())
    chosen = choose(listed)
    shown = [entry for entry in listed if chosen.keeps(entry)]
    folded, agree = draw_switches()
    said = {
        "view": "many",
        **in_link(),
        "fold": None if folded else 0,
        "agree": 1 if agree else None,
    }
    if not shown:
        st.info(f"None of the {len(listed):,} runs passes these filters.", icon=":material/filter_alt:")
        draw_actions(a, [], [])
        return said
    groups = many.grouped(shown) if folded else [Group((entry,)) for entry in shown]
    draw_equal(shown, len(listed), groups)
    agreements = agreements_with(a, shown) if agree else {}
    draw_actions(a, draw_table(a, groups, names, agreements), shown)
    return said | draw_images(a, shown, names)


# -- which runs


def choose(listed: Sequence[Entry]) -> Filter:
    """The filters, in a row that folds away; the link's, unless a person has just changed one."""
    state = st.session_state
    data, models = data_names(listed), sorted({str(e.settings["model"]) for e in listed if "model" in e.settings})
    link.follow("many-find", st.query_params.get("find", "")[:LONGEST])
    link.follow("many-data", _quoted("data", data))
    link.follow("many-model", _quoted("model", models))
    link.follow("many-verdict", link.several("verdict", list(_LEVELS)))
    link.follow("many-status", link.several("status", STATUSES))
    least = link.real("least")
    link.follow("many-least", None if least is None else min(100.0, max(0.0, least)), clearable=True)
    link.follow("many-runs", link.several("runs", [entry.id for entry in listed]))
    for key, there in (("many-data", data), ("many-model", models), ("many-runs", {entry.id for entry in listed})):
        state[key] = [value for value in state[key] if value in there]  # a run may be gone since it was chosen
    with folding.row("Filters", _said(data)):
        st.text_input(
            "Find",
            key="many-find",
            max_chars=LONGEST,
            placeholder="Name, data, recipe, seed, device",
            help="Every word has to be in the run's name, id, data, recipe, seed, device or status; words in quotation "
            'marks as they stand: "seed 3".',
            width=260,
        )
        st.multiselect("Data", list(data), key="many-data", format_func=lambda key: data[key], width=220)
        st.multiselect("Model", models, key="many-model", format_func=line, width=220)
        st.multiselect(
            "How far to rely on it", list(_LEVELS), key="many-verdict", format_func=lambda key: _LEVELS[key], width=220
        )
        st.multiselect("Status", STATUSES, key="many-status", width=180)
        st.number_input("Accuracy at least (%)", 0.0, 100.0, value=None, key="many-least", width=170)
    least = state["many-least"]
    return Filter(
        state["many-find"],
        frozenset(state["many-data"]),
        frozenset(state["many-model"]),
        frozenset(_LEVELS[key] for key in state["many-verdict"]),
        frozenset(state["many-status"]),
        None if least is None else least / 100,
        frozenset(state["many-runs"]),
    )


_LEVELS = {"trust": trust.LEVELS[0], "check": trust.LEVELS[1], "not": trust.LEVELS[2]}


def _quoted(name: str, options: Iterable[str]) -> list[str]:
    """Options that the link lists in quoted form, for they may hold a comma."""
    by_text = {quote(option, safe=""): option for option in options}
    return [by_text[text] for text in link.several(name, by_text)]


def in_link() -> dict:
    """The filters, as a link says them."""
    state = st.session_state
    return {
        "find": state["many-find"],
        "data": [quote(key, safe="") for key in state["many-data"]],
        "model": [quote(name, safe="") for name in state["many-model"]],
        "verdict": state["many-verdict"],
        "status": state["many-status"],
        "least": state["many-least"],
        "runs": state["many-runs"],
    }


def _said(data: Mapping[str, str]) -> list[str]:
    """What is set, in words."""
    state, said = st.session_state, []
    if state["many-find"]:
        said.append(f"«{state['many-find']}»")
    said += [data[key] for key in state["many-data"]]
    said += state["many-model"] + [_LEVELS[key] for key in state["many-verdict"]] + state["many-status"]
    if state["many-least"] is not None:
        said.append(f"accuracy at least {state['many-least']:g} %")
    if state["many-runs"]:
        said.append(f"only {formats.count(len(state['many-runs']), 'runs')} that were chosen")
    return said


def data_names(listed: Sequence[Entry]) -> dict[str, str]:
    """What people read of each data set, by `Entry.data`; of two that have one name, the content is said, too."""
    short = {entry.data: run_names.data(entry.dataset) for entry in listed if entry.dataset}
    several = Counter(name for key, name in short.items() if _content(key))
    return {
        key: line(name if several[name] < 2 and _content(key) else f"{name} ({_content(key) or 'not read yet'})")
        for key, name in short.items()
    }


def _content(key: str) -> str:
    return key.rpartition("@")[2][:8]


def draw_switches() -> tuple[bool, bool]:
    """Whether seeds are folded, and whether scores are held against A's."""
    link.follow("many-fold", link.one_of("fold", (0, 1), 1) == 1)
    link.follow("many-agree", link.one_of("agree", (0, 1), 0) == 1)
    with st.container(horizontal=True):
        folded = st.toggle(
            "Fold seeds together",
            key="many-fold",
            help="Runs that differ in their seed alone are one row: mean, ± spread.",
        )
        agree = st.toggle(
            "Agreement of the scores with A",
            key="many-agree",
            help=f"Opens the scores of the first {compare.MOST_RUNS} runs shown; the table alone opens none.",
        )
    return folded, agree


# -- the table


def draw_equal(shown: Sequence[Entry], of: int, groups: Sequence[Group]) -> None:
    """What all of them have in common, said once."""
    equal, said = many.equal(shown), []
    if many.DATASET in equal and len({entry.data for entry in shown}) == 1:
        said.append(f"data {run_names.data(str(equal[many.DATASET]))}")
    said.append(many.in_words(equal))
    if many.SEED in equal:
        said.append(f"seed {equal[many.SEED]}")
    if len(devices := {entry.device for entry in shown}) == 1:
        said.extend(filter(None, devices))
    rows = "" if len(groups) == len(shown) else f", folded into {formats.count(len(groups), 'rows')}"
    st.markdown(f"**{len(shown):,} of {formats.count(of, 'runs')}**{rows}.")
    if len(shown) > 1 and any(said):
        st.caption(f"The same in all: {plain('; '.join(filter(None, said)))}.")


class Columns(NamedTuple):
    """Which there are, of those that a table need not have."""

    data: Mapping[str, str]  # names by `Entry.data`; empty where all have the same
    differ: Sequence[str]  # settings
    spread: bool  # of seeds
    device: bool
    status: bool
    remark: bool

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Columns":
        shown = [member for group in groups for member in group.members]
        data = data_names(shown)
        return cls(
            data if len(data) > 1 else {},
            many.differing(shown),
            len(groups) < len(shown),
            len({entry.device for entry in shown}) > 1,
            any(entry.status != "finished" for entry in shown),
            any(entry.remark for entry in shown),
        )


def draw_table(a: RunView, groups: Sequence[Group], names: Mapping[str, str], agreements: Agreements) -> list[Group]:
    """Returns the rows that are chosen."""
    columns, number = Columns.of(groups), st.column_config.NumberColumn
    event = st.dataframe(
        [row_of(a, group, columns, names, agreements) for group in groups],
        key=f"many-{hash(tuple(tuple(member.id for member in group.members) for group in groups))}",
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        placeholder="—",
        alt="Runs with their data, recipe, accuracy, agreement with retraining, verdict and cost",
        column_config={
            "Run": st.column_config.TextColumn(pinned=True, width="medium"),
            "Look": st.column_config.LinkColumn(display_text="open", width=60),
            "When": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
            **{name: number(format="%.1f") for name in ("Accuracy (%)", "± accuracy", "Disk (MB)")},
            **{name: number(format="%.1f") for name in ("Training (s)", "Replay (s)")},
            **{name: number(format="%.3f") for name in ("LDS", "± LDS", RANK, LINEAR)},
        },
    )
    more = len(columns.differ) - COLUMNS
    st.caption(
        "A click on a column's name sorts, the box at a row's left chooses it. LDS: of the validation that decides the "
        "verdict, with its 95 % interval; of several seeds the mean, ± the standard deviation over seeds, and from the "
        "lowest to the highest of their intervals; times are means, disk is the sum."
        + (f" {len(columns.differ)} settings differ: the first {COLUMNS} have columns." if more > 0 else "")
    )
    return [groups[row] for row in event.selection.rows if row < len(groups)]


def row_of(a: RunView, group: Group, columns: Columns, names: Mapping[str, str], agreements: Agreements) -> dict:
    """A group as a row of the table."""
    first, members = group.first, group.members
    row: dict = {"Run": name_of(a, group, names), "Look": look(group)}
    if columns.data:
        row["Data"] = columns.data.get(first.data, "")
    for name in columns.differ[:COLUMNS]:
        there = name in first.settings  # imported scores have no recipe
        row[formats.LABELS.get(name, name)] = line(formats.setting(first.settings[name])) if there else None
    row["Seed"] = ", ".join(str(member.seed) for member in members if member.seed is not None)
    row |= figures_of(group, columns.spread)
    if agreements:
        row |= agreement_of(group, agreements)
    if columns.device:
        row["Device"] = line(", ".join(sorted({member.device for member in members})))
    row["When"] = when(max(member.created for member in members))
    row["Recipe"] = line(many.in_words(first.settings))
    if columns.status:
        statuses = Counter(member.status for member in members)
        row["Status"] = ", ".join(f"{n} {status}" if members[1:] else status for status, n in statuses.items())
    if columns.remark:
        row["Remark"] = line("; ".join(filter(None, (member.remark for member in members))))
    return row


def when(created: str) -> datetime.datetime | None:
    """The server's own time of day, without its zone: a table sorts by it."""
    try:
        return datetime.datetime.fromisoformat(created).astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def figures_of(group: Group, spread: bool) -> dict:
    """Accuracy, trust and cost."""
    lows, highs = group.values("low"), group.values("high")
    levels = Counter(member.level for member in group.members if member.level)
    whole = len(group.members)
    said = [level if count == whole else f"{count} × {level}" for level, count in levels.items()]
    return {
        "Accuracy (%)": _times(group.mean("accuracy"), 100),
        **({"± accuracy": _times(group.spread("accuracy"), 100)} if spread else {}),
        "LDS": group.mean("lds"),
        **({"± LDS": group.spread("lds")} if spread else {}),
        "95 % interval": f"{formats.figure(min(lows), 3)} to {formats.figure(max(highs), 3)}"
        if lows and highs
        else None,
        "How far to rely on it": ", ".join(said) or (None if compare.METHOD in group.first.settings else UNKNOWN),
        "Training (s)": group.mean("train_seconds"),
        "Replay (s)": group.mean("replay_seconds"),
        "Disk (MB)": _times(group.total("bytes"), 1e-6),
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def name_of(a: RunView, group: Group, names: Mapping[str, str]) -> str:
    """Of one run its name; of several seeds that of the first, and how many they are."""
    mark = "A: " if any(member.id == a.id for member in group.members) else ""
    first = group.first
    if len(group.members) == 1:
        return mark + names.get(first.id, line(first.id))
    what = first.name or f"{run_names.data(first.dataset)}, {first.settings.get('model', '')}"
    return line(f"{mark}{what}: {len(group.members)} seeds")


def look(group: Group) -> str:
    """Where a row leads: several seeds to their mean, a run to its influence, or to what there is of it."""
    first = group.first
    if len(group.members) > 1 and sum(member.scored for member in group.members) > 1:
        scored = next(member for member in group.members if member.scored)
        return link.to("Compare_runs", run=scored.id, view="seeds")
    return link.to("Influence" if first.scored else "Live", run=first.id)


# -- scores beside A's


def agreements_with(a: RunView, shown: Sequence[Entry]) -> dict[str, compare.Summed | str]:
    """Of the first `compare.MOST_RUNS` that have scores: by id, or why they cannot be compared."""
    asked = [entry for entry in shown if entry.scored and entry.id != a.id][: compare.MOST_RUNS]
    found: dict[str, compare.Summed | str] = {}
    for entry in asked:
        try:
            b = RunView.of(Run.open(shell.root(), entry.id))
            commons = compare.common(a.manifest, b.manifest, compare_scores.shared_of(a, b))
            found[entry.id] = compare.summed([compare_scores.agreement(both.source, both) for both in commons])
        except ReplayError as error:
            found[entry.id] = error.what
    return found


def agreement_of(group: Group, agreements: Agreements) -> dict:
    """Medians over the group's members."""
    known = [agreements[member.id] for member in group.members if member.id in agreements]
    sums = [each for each in known if isinstance(each, compare.Summed)]
    ranks = [each.spearman for each in sums if each.spearman is not None]
    sizes = [each.pearson for each in sums if each.pearson is not None]
    said = [each for each in known if isinstance(each, str)]
    return {
        RANK: compare.median(ranks),
        LINEAR: compare.median(sizes),
        COMMON: max((each.targets for each in sums), default=None),
        "Not compared": line("; ".join(said)) if said else None,
    }


# -- what can be done with rows


def draw_actions(a: RunView, rows: Sequence[Group], shown: Sequence[Entry]) -> None:
    """Two rows compared, only these rows, all runs again, and the table as a file."""
    ids = [group.first.id for group in rows]
    pair = ids if len(ids) == 2 else [a.id, *ids] if len(ids) == 1 and ids[0] != a.id else []
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Compare with A" if len(ids) == 1 else "Compare the two",
            key="many-compare",
            icon=":material/compare_arrows:",
            disabled=not pair,
            on_click=functools.partial(compare_two, *pair) if pair else None,
            help="Choose one or two rows.",
        )
        st.button(
            f"Only these {len(rows)}" if rows[1:] else "Only these",
            key="many-only",
            icon=":material/filter_alt:",
            disabled=not rows,
            on_click=only,
            args=([member.id for group in rows for member in group.members],),
        )
        if st.session_state["many-runs"]:
            st.button("All runs", key="many-all", icon=":material/filter_alt_off:", on_click=only, args=([],))
        if shown:
            download.button(
                "Table as CSV",
                lambda: formats.csv(many.table(shown)),
                f"{len(shown)}-runs.csv",
                key="many-csv",
            )


def only(ids: list[str]) -> None:
    """The table shows these; of none, all."""
    st.session_state["many-runs"] = ids


def compare_two(a: str, b: str) -> None:
    st.session_state.update({"run": a, f"other-{a}": b, "compare-view": "two"})


# -- the images that matter


def draw_images(a: RunView, shown: Sequence[Entry], names: Mapping[str, str]) -> dict:
    """In all of the runs that are shown, and in one: asked for, because it opens their scores."""
    link.follow("many-images", link.one_of("images", (0, 1), 0) == 1)
    st.header("Images that matter in all of them, and in one")
    if not st.toggle("Open their scores", key="many-images", help=f"Of the first {MOST_LISTS} runs on the data of A."):
        st.caption("The lists of the most helpful and most harmful images, held against each other and against chance.")
        return {}
    said: dict = {"images": 1}
    records, left_out = records_of(a, shown)
    if left_out:
        st.caption(f"Not among them: {'; '.join(left_out)}.")
    if len(records) < 2:
        st.info("It takes two runs with scores on the data of A.", icon=":material/info:")
        return said
    with shell.guarded():
        found = {each.target.key: each for each in overlap.over_runs([run.manifest for run in records])}
        if not found:
            st.info("These runs have no target in common. Explain the same images in them.", icon=":material/info:")
            return said
        titles = {key: line(each.target.title(a.dataset)) for key, each in found.items()}
        chooser = f"many-target-{hash(tuple(found))}"  # another choice of targets is another list
        link.follow(chooser, link.one_of("target", list(found), next(iter(found))))
        key = st.selectbox("Target", list(found), format_func=lambda key: titles[key], key=chooser)
        run_choice.hold(run=a.id, target=key if key in a.targets else None)
        say_what(records, found[key])
        labels = [names.get(run_id, run_id) for run_id in found[key].runs]
        said |= {"target": key, **compare_images.draw(a, found[key], labels)}
        docs.show("comparing.md", "Images that matter in all runs", "What these numbers say")
    return said


def records_of(a: RunView, shown: Sequence[Entry]) -> tuple[list[RunView], list[str]]:
    """Those of the runs that can be held against each other, and in words which cannot."""
    fingerprint = a.manifest.data_fingerprint
    same = [entry for entry in shown if entry.fingerprint == fingerprint and fingerprint is not None]
    scored = [entry for entry in same if entry.scored]
    said, records = [], []
    if other := len(shown) - len(same):
        said.append(f"{formats.count(other, 'runs')} of other data, or of the same in another order")
    if without := len(same) - len(scored):
        said.append(f"{formats.count(without, 'runs')} without scores")
    if more := len(scored) - MOST_LISTS:
        said += [f"{formats.count(more, 'runs')} beyond the first {MOST_LISTS}"] if more > 0 else []
    for entry in scored[:MOST_LISTS]:
        try:
            run = RunView.of(Run.open(shell.root(), entry.id))
            if run.targets:
                records.append(run)
        except ReplayError as error:  # deleted or damaged meanwhile
            said.append(plain(error.what))
    return records, said


def say_what(records: Sequence[RunView], of: overlap.OverRuns) -> None:
    """How many have the target, and whether their scores answer one question."""
    lacking = len(records) - len(of.runs)
    if lacking:
        st.caption(f"{formats.count(lacking, 'runs')} of them {'has' if lacking == 1 else 'have'} no scores of it.")
    windows = {run.manifest.window_phrase or compare.WHOLE for run in records if run.id in of.runs}
    if len(windows) > 1:
        st.caption(f"They answer other questions: {plain('; '.join(sorted(windows)))}.")

"""What `python -m engine compare` prints: many runs as a table, and the images that are on all of their lists."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine import config_file
from engine.analysis import many, overlap
from engine.analysis.many import Entry, Filter, Group
from engine.analysis.wording import count
from engine.datasets import registry as datasets
from engine.errors import ConfigError
from engine.runs import run as runs

if TYPE_CHECKING:
    import pandas as pd


def compare(root: Path, call: argparse.Namespace) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
    """Prints what `call` asks for, and returns it for files: a row a run, and, with `target`, a row an image.

    Raises `RunNotFoundError` for a run that is not there, `ConfigError` where none is left, or where fewer than two
    have the target.
    """
    if call.images_csv is not None and call.target is None:
        raise ConfigError("--images-csv lists the images of a target, and none is named.", "Add --target KEY.")
    named = [runs.summary(runs.Run.open(root, run_id)) for run_id in dict.fromkeys(call.runs)]
    listed = many.entries(root, named or runs.summaries(root))
    shown = [entry for entry in listed if Filter(call.find).keeps(entry)]
    if not shown:
        raise ConfigError(
            f"None of the {len(listed):,} runs in {root} is asked for.",
            "Leave --find away, or start a run: python -m engine run --preset sample.",
        )
    _print_table(shown, [Group((entry,)) for entry in shown] if call.single else many.grouped(shown))
    table = many.table(shown)
    return table, None if call.target is None else _images(root, shown, call.target, call.top)


# -- the table


def _print_table(shown: Sequence[Entry], groups: Sequence[Group]) -> None:
    """What is the same in all first, then a line for each group, with a column for each setting that differs."""
    import pandas as pd

    equal, differ = many.equal(shown), many.differing(shown)
    data = {entry.data for entry in shown}
    same = [*([str(equal[many.DATASET])] if len(data) == 1 and many.DATASET in equal else []), many.in_words(equal)]
    if len(shown) > 1 and any(same):
        print(f"the same in all {len(shown)} runs: {config_file.printable('; '.join(filter(None, same)))}")
    rows = [
        {
            "run": group.first.id if len(group.members) == 1 else f"{group.first.id} and {len(group.members) - 1} more",
            **({"data": config_file.printable(group.first.data)} if len(data) > 1 else {}),
            **{name: config_file.printable(_setting(group.first, name)) for name in differ},
            "seed": ",".join(str(member.seed) for member in group.members if member.seed is not None),
            "accuracy": _figure(group, "accuracy", 4),
            "LDS": _figure(group, "lds", 3),
            "interval": _interval(group),
            "rely on it": "; ".join(dict.fromkeys(member.level or "—" for member in group.members)),
            "train s": _figure(group, "train_seconds", 1),
            "replay s": _figure(group, "replay_seconds", 1),
            "MB": "—" if (total := group.total("bytes")) is None else f"{total / 1e6:,.1f}",
            "status": "; ".join(dict.fromkeys(member.status for member in group.members)),
        }
        for group in groups
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    for entry in shown:
        if entry.remark:
            print(f"{entry.id}: {config_file.printable(entry.remark)}")


def _setting(entry: Entry, name: str) -> str:
    return str(entry.settings.get(name, "—"))


def _figure(group: Group, name: str, digits: int) -> str:
    """Of several seeds the mean ± their standard deviation."""
    mean, spread = group.mean(name), group.spread(name)
    if mean is None:
        return "—"
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _interval(group: Group) -> str:
    lows, highs = group.values("low"), group.values("high")
    return f"{min(lows):.3f} to {max(highs):.3f}" if lows and highs else "—"


# -- the images


def _images(root: Path, shown: Sequence[Entry], key: str, top: int) -> "pd.DataFrame":
    """The lists of one target over the runs that have scores on the data of the first that has."""
    scored = [entry for entry in shown if entry.scored]
    same = [entry for entry in scored if entry.fingerprint == scored[0].fingerprint]
    if len(same) < len(shown):
        print(f"left out of the lists, without scores or of other data: {count(len(shown) - len(same), 'runs')}")
    records = [runs.Run.open(root, entry.id).manifest() for entry in same]
    having = [record for record in records if key in {ref.key for ref in record.score_sets.targets()}]
    found = {each.target.key: each for each in overlap.over_runs(having)} if len(having) > 1 else {}
    if key not in found:
        raise ConfigError(
            f"Two runs with scores of «{key}» on the same data are needed, and there are {len(having)}.",
            "Explain the target in more of them: python -m engine attribute RUN --targets …",
        )
    of = found[key]
    for sentence in overlap.in_sentences(of, top, "runs"):
        print(sentence)
    return overlap.table(of, top, datasets.load(records[0].config.dataset))

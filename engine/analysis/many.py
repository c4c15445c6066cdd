"""Any number of runs side by side: a row of facts each, what differs, groups of seeds, a choice by filter. No torch.

Read are a run's manifest, its configuration, and the reports and sidecars that its verdict rests on; no file of scores
is opened. What the checksums in the manifest say has not changed is not read again, so that a list of 200 runs costs a
look at 200 manifests (`tools/bench_many.py`).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from engine.analysis import compare, trust, wording
from engine.config import Recipe, RunConfig
from engine.errors import ReplayError
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run, Summary

if TYPE_CHECKING:
    import pandas as pd

SEED, DATASET = "recipe.seed", "dataset"

OWN_COLUMNS = (SEED, DATASET)  # settings that stand in columns of their own, whether or not they differ

WORDS = re.compile(r'"([^"]+)"|([^\s"]+)')  # of what is looked for: a phrase, or a word

SAID = {  # settings that `in_words` says, those that are there; what writes each
    "model": "{}".format,
    "width": "width {:g}".format,
    "recipe.optimizer": "{}".format,
    "recipe.epochs": lambda epochs: wording.count(epochs, "epochs"),
    "recipe.batch_size": "batches of {:,}".format,
    "recipe.schedule": "{}".format,
    "recipe.peak_lr": "rate {:g}".format,
    "recipe.momentum": "momentum {:g}".format,
    "recipe.weight_decay": "weight decay {:g}".format,
}


# -- one run


@dataclass(frozen=True)
class Entry:
    """What a table says of one run; None where it is not known. Of one that cannot be read, `remark` says why."""

    id: str
    status: str  # of `engine.runs.run.STATUSES`
    remark: str = ""
    name: str = ""  # that a person gave it
    created: str = ""  # ISO 8601
    dataset: str = ""
    fingerprint: str | None = None  # of the data's content
    model_sources: tuple[tuple[str, str], ...] | None = None  # SHA-256 of the files that decide its model
    settings: Mapping[str, object] = field(default_factory=dict)  # that decide the training (`compare.settings`)
    accuracy: float | None = None  # of the test images, 0 to 1
    level: str | None = None  # of `trust.LEVELS`: how far to rely on its scores
    lds: float | None = None  # mean over targets, of the validation that decides
    low: float | None = None  # its 95 % interval
    high: float | None = None
    scored: bool = False
    targets: int | None = None  # that have scores
    train_seconds: float | None = None
    replay_seconds: float | None = None  # of all replays so far
    bytes: int | None = None  # on disk at the end of its last job
    device: str = ""
    group: str = ""  # the name of its seed group, `engine.runs.notes.SeedGroup`

    @property
    def seed(self) -> int | None:
        seed = self.settings.get(SEED)
        return seed if isinstance(seed, int) else None

    @property
    def data(self) -> str:
        """A data set by its name and content: two runs with one of these saw the same images and labels."""
        return f"{self.dataset}@{(self.fingerprint or '')[:12]}"


@dataclass(frozen=True)
class _Source:
    """What a run's facts were read from, as its manifest records it; `record` is only read through."""

    folder: Path
    checksums: tuple[tuple[str, str], ...]
    training_digest: str | None
    steps: int | None
    record: Manifest = field(compare=False)

    @classmethod
    def of(cls, record: Manifest) -> "_Source":
        read = [(name, sha) for name, sha in record.files.items() if name == "config.json" or _is_read(name)]
        return cls(record.folder, tuple(read), record.training_digest, record.steps, record)


def _is_read(name: str) -> bool:
    """Whether the verdict rests on it: sidecars of scores, and reports."""
    return name.endswith(".json") and name.startswith(("scores/", "validation/"))


def entries(root: Path, runs: Iterable[Summary]) -> list[Entry]:
    """Of these runs, in their order."""
    return [entry(Run(root, run.id), run) for run in runs]


def entry(run: Run, known: Summary) -> Entry:
    """Of one run. `known` is what a list of runs has of it, for where it cannot be read."""
    none = Entry(run.id, known.status, known.remark, known.name, known.created, known.dataset, known.data_fingerprint)
    if known.remark:
        return none
    said = notes.at_a_glance(run)
    try:
        record = run.manifest()
        settings = _settings(_Source.of(record))
    except ReplayError as error:
        return replace(none, remark=error.what)
    timings, sizes = record.timings, record.sizes
    found = Entry(
        run.id,
        record.status,
        name=said.name,
        created=record.created,
        dataset=str(settings[DATASET]),
        fingerprint=record.data_fingerprint,
        model_sources=None if record.model_sources is None else tuple(sorted(record.model_sources.items())),
        settings=settings,
        accuracy=record.test_accuracy,
        scored=record.scored is True,
        targets=record.targets_scored,
        train_seconds=timings.get("train_seconds"),
        replay_seconds=timings.get("replay_seconds"),
        bytes=None if sizes is None else sum(sizes.values()),
        device=record.device_name or record.device or "",
        group=said.group.name if said.group else "",
    )
    try:
        return replace(found, **_verdict(_Source.of(record)))
    except ReplayError as error:
        return replace(found, remark=error.what)


@lru_cache(maxsize=4096)
def _settings(source: _Source) -> Mapping[str, object]:
    return MappingProxyType(compare.settings(replace(source.record)))


@lru_cache(maxsize=4096)
def _verdict(source: _Source) -> Mapping[str, object]:
    record = replace(source.record)  # a copy: the record itself is kept with the cache, without what is read here
    if not record.score_sets.names():
        return {}
    if record.method:  # nothing was trained here that could be trained again
        return {"targets": len(record.score_sets.targets())}
    verdict = trust.verdict(record)
    interval = verdict.report if verdict.lds is not None and verdict.report else {}
    return {
        "level": verdict.level,
        "lds": verdict.lds,
        "low": interval.get("lds_mean_low"),
        "high": interval.get("lds_mean_high"),
        "targets": len(record.score_sets.targets()),
    }


def in_words(settings: Mapping[str, object]) -> str:
    """A recipe, or what several have in common of it, in a line: «small-cnn, sgd, 8 epochs, batches of 500, …». What
    came to the configuration later is said where it is not as it was before."""
    words = [f"scores of {settings[compare.METHOD]}"] if compare.METHOD in settings else []
    words += [written(settings[name]) for name, written in SAID.items() if name in settings]
    for holder, prefix in ((Recipe, "recipe."), (RunConfig, "")):
        for each in fields(holder):
            name = f"{prefix}{each.name}"
            if name in SAID or name not in settings or "neutral" not in each.metadata or name == compare.WINDOW:
                continue
            if settings[name] != each.metadata["neutral"]:
                words.append(f"{each.name.replace('_', ' ')} {_text(settings[name])}")
    if settings.get("precision", "float32") != "float32":
        words.append(str(settings["precision"]))
    if settings.get(compare.WINDOW, compare.WHOLE) != compare.WHOLE:
        words.append(str(settings[compare.WINDOW]))
    return ", ".join(words)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- choosing by filter


@dataclass(frozen=True)
class Filter:
    """Which runs a table shows; what is empty, or None, asks for nothing. Every word of `text` has to be in what the
    table says of the run: its name, id, data, recipe, seed, device, status. Words in quotation marks have to be there
    as they stand, as whole words: "seed 2" is neither seed 20 nor 2 epochs."""

    text: str = ""
    data: frozenset[str] = frozenset()  # `Entry.data`
    models: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()  # of `trust.LEVELS`
    statuses: frozenset[str] = frozenset()
    accuracy: float | None = None  # at least, 0 to 1
    ids: frozenset[str] = frozenset()

    def keeps(self, entry: Entry) -> bool:
        if self.accuracy is not None and (entry.accuracy is None or entry.accuracy < self.accuracy):
            return False
        chosen = (
            (self.data, entry.data),
            (self.models, entry.settings.get("model")),
            (self.levels, entry.level),
            (self.statuses, entry.status),
            (self.ids, entry.id),
        )
        if any(wanted and value not in wanted for wanted, value in chosen):
            return False
        asked, said = WORDS.findall(self.text.casefold()), _said(entry) if self.text else ""
        return all(_has_phrase(said, phrase) if phrase else word in said for phrase, word in asked)


def _has_phrase(said: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", said) is not None


def _said(entry: Entry) -> str:
    seed = "" if entry.seed is None else f"seed {entry.seed}"
    parts = (entry.id, entry.name, entry.dataset, in_words(entry.settings), seed, entry.device, entry.status)
    return " ".join(parts).casefold()


# -- groups, and what differs


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, by their seeds; most often of one member."""

    members: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        return self.members[0]

    def values(self, name: str) -> list[float]:
        """A figure of each member, of those that have it."""
        known = (getattr(member, name) for member in self.members)
        return [float(value) for value in known if value is not None]

    def mean(self, name: str) -> float | None:
        values = self.values(name)
        return sum(values) / len(values) if values else None

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds; None of fewer than two."""
        values = self.values(name)
        if len(values) < 2:
            return None
        mean = sum(values) / len(values)
        return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))

    def total(self, name: str) -> float | None:
        values = self.values(name)
        return sum(values) if values else None


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Seeds of one recipe on the same data as one group, where its first member stood. Two trainings of one seed are no
    two seeds: the second stands alone, so that no mean counts a training twice. Of two, that of the group's own seed
    group is taken, else the first. A run that cannot be read stands alone."""
    by_key: dict[object, dict[int | None, Entry]] = {}
    own: dict[object, str] = {}
    order: list[tuple[object, Entry]] = []
    for number, entry in enumerate(entries):
        key = _alike(entry) if entry.settings else number
        members = by_key.setdefault(key, {})
        twin = members.get(entry.seed)
        own.setdefault(key, entry.group)
        if twin is None:
            members[entry.seed] = entry
        elif entry.group and entry.group == own[key] != twin.group:
            members[entry.seed] = entry
        order.append((key, entry))
    groups, begun = [], set()
    for key, entry in order:
        members = by_key[key]
        if members.get(entry.seed) is not entry:
            groups.append(Group((entry,)))
        elif key not in begun:
            begun.add(key)
            groups.append(Group(tuple(sorted(members.values(), key=lambda each: each.seed or 0))))
    return groups


def _alike(entry: Entry) -> tuple:
    """Equal for runs that differ in their seed alone: what `seeds.unlike` asks of two, as one value. Of an older run
    that did not record its data's content, or its model's code, nobody can know that they are another's."""
    settings = tuple((name, value) for name, value in entry.settings.items() if name not in OWN_COLUMNS)
    return (settings, entry.fingerprint or entry.dataset, entry.model_sources)


def differing(entries: Sequence[Entry]) -> list[str]:
    """Settings that are not the same in all runs that have them, without those that have columns of their own."""
    return [name for name, values in _values(entries).items() if name not in OWN_COLUMNS and len(values) > 1]


def equal(entries: Sequence[Entry]) -> dict[str, object]:
    """Settings that are the same in all runs that can be read, with their values; the seed and the data set, too."""
    known = [entry.settings for entry in entries if entry.settings]
    return {
        name: values[0]
        for name, values in _values(entries).items()
        if len(values) == 1 and all(name in settings for settings in known)
    }


def _values(entries: Sequence[Entry]) -> dict[str, list[object]]:
    """Every setting that a run has, with its different values."""
    found: dict[str, list[object]] = {}
    for entry in entries:
        for name, value in entry.settings.items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return found


# -- for other tools


def table(entries: Sequence[Entry]) -> "pd.DataFrame":
    """A row a run, none folded: every fact, and each setting that differs under its dotted name."""
    import pandas as pd

    differ = differing(entries)
    return pd.DataFrame(
        [
            {
                "run": entry.id,
                "name": entry.name,
                "status": entry.status,
                "remark": entry.remark,
                "data": entry.dataset,
                "data_fingerprint": entry.fingerprint,
                "recipe": in_words(entry.settings),
                **{name: _text(entry.settings[name]) if name in entry.settings else None for name in differ},
                "seed": entry.seed,
                "seed_group": entry.group,
                "accuracy": entry.accuracy,
                "lds": entry.lds,
                "lds_low": entry.low,
                "lds_high": entry.high,
                "verdict": entry.level,
                "targets": entry.targets,
                "train_seconds": entry.train_seconds,
                "replay_seconds": entry.replay_seconds,
                "bytes": entry.bytes,
                "device": entry.device,
                "created": entry.created,
            }
            for entry in entries
        ],
        columns=None if entries else ["run"],
    )

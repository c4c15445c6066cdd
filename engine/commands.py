"""What each command of the command line does, and what it prints. engine/arguments.py reads the call."""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine import config as configs
from engine import config_file, files, proposal, space
from engine.analysis import duplicates as duplicate_images
from engine.analysis import features as kept_features
from engine.analysis import maps, overlap, seeds, stability, suspects, trust, wording
from engine.analysis import removal as removals
from engine.analysis import self_influence as self_influences
from engine.analysis import themes as theme_finding
from engine.analysis.cost import in_words, replay_seconds
from engine.datasets import registry as datasets
from engine.datasets import store
from engine.datasets.base import SPLITS, Dataset
from engine.datasets.names import name_error
from engine.errors import ConfigError
from engine.export import write as exports
from engine.export.material import Material
from engine.jobs import curvature as curvatures
from engine.jobs import probe as probes
from engine.jobs import repeat as repeats
from engine.jobs.duplicates import OPEN, FindDuplicates
from engine.jobs.features import Features
from engine.jobs.job import Job, Result
from engine.jobs.queue import discard
from engine.jobs.rebuild import Rebuild
from engine.jobs.registry import unfinished
from engine.jobs.removal import Removal
from engine.jobs.replay import Replay
from engine.jobs.self_influence import SelfInfluence
from engine.jobs.smoothness import Smoothness
from engine.jobs.umap import Umap
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.library import comparing
from engine.loading import collector_at_rest, load_derivatives
from engine.report import command as reports
from engine.runs import notes
from engine.runs import run as runs
from engine.runs import storage as storages
from engine.runs.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

PROBLEMS = 20  # of a data set, that `data` prints

# What the presets were made for; a call that names other data, and no recipe, starts from a proposal.
FASHION_MNIST = ("fashion-mnist-sample", "fashion-mnist-sample-noisy", "fashion-mnist")


def load_torch() -> None:
    """Loads what trains. Takes seconds, so that it is done where nothing is locked or written yet."""
    with collector_at_rest():
        import engine.jobs.execute  # noqa: F401  (for its effect)
    load_derivatives()


def load_pandas() -> None:
    """Loads what makes tables: likewise, a third of a second."""
    import pandas  # noqa: F401  (for its effect)


# -- work


def run(call: argparse.Namespace) -> int:
    root = runs.outputs_root(call.outputs)
    _execute(runs.Run.create(root, _configured(call)))
    return 0


def attribute(call: argparse.Namespace) -> int:
    run, job = _opened(call), Replay(call.targets, call.function, call.mode or "")
    if call.shard is not None:
        return _shard(run, job, call.shard)
    _execute(run, job)
    return 0


def _shard(run: runs.Run, job: Job, number: tuple[int, int]) -> int:
    from engine.jobs import shards
    from engine.jobs.parts import Shard

    with _Bar() as bar:
        said = shards.do(run, job, Shard(*number), bar.event)
    print(said)
    return 0


def merge(call: argparse.Namespace) -> int:
    from engine.jobs import merge as merging

    run = _opened(call)
    with _Bar() as bar:
        results = merging.merge(run, bar.event)
    for result in results:
        if result.scores is not None:
            shape = run.scores().matrix(result.scores).shape
            print(f"scores {run.path / 'scores' / result.scores}.npy float32 {shape}{_effect(run.manifest())}")
        _print_validations(run, result)
    return 0


def rebuild(call: argparse.Namespace) -> int:
    _execute(_opened(call), Rebuild(call.mode))
    return 0


def resume(call: argparse.Namespace) -> int:
    run = _opened(call)
    if call.discard is None:
        _execute(run, None if call.only is None else _unfinished(run, call.only))
    else:
        job = discard(run, call.discard)
        print(f"run {run.id}: the unfinished job «{job.kind}» was discarded; {len(run.manifest().jobs)} left")
    return 0


def _unfinished(run: runs.Run, number: int) -> Job:
    jobs = unfinished(run)
    if number >= len(jobs):
        raise ConfigError(f"Run {run.id} has no unfinished job {number}.", f"It has {len(jobs)}, counted from 0.")
    return jobs[number]


def validate(call: argparse.Namespace) -> int:
    run, job = _opened(call), Validate(call.subsets, call.drop, call.seed)
    if call.shard is not None:
        return _shard(run, job, call.shard)
    _print_validations(run, _check(run, job))
    return 0


def _print_validations(run: runs.Run, result: Result) -> None:
    for report in trust.reports(run.manifest()):
        if report["name"] in result.reports:
            _print_validation(run, report)


def _print_validation(run: runs.Run, report: dict) -> None:
    print(
        f"\n{run.path / 'validation' / report['name']}.json\n"
        f"{report['function']}, {report['subsets']} subsets, {100 * report['drop']:g} % left out "
        f"({report['left_out']:,} images): LDS {_figure(report['lds_mean'], 3)} "
        f"({_figure(report['lds_mean_low'], 3)} to {_figure(report['lds_mean_high'], 3)}), "
        f"slope {_figure(report['slope_mean'], 2)}, R² {_figure(report['r2_mean'], 2)}, "
        f"mean of {report['targets_that_vary']} of {len(report['targets'])} targets, those that varied; "
        f"noise {100 * report['noise_share']:.2g} % of the variance{_effect(run.manifest())}"
    )
    print(f"{'target':12}{'LDS':>8}{'95 % interval':>20}{'slope':>8}{'R²':>8}")
    for t in report["targets"]:
        print(
            f"{t['name']:12}{_figure(t['lds'], 3):>8}{_figure(t['low'], 3):>10} to{_figure(t['high'], 3):>7}"
            f"{_figure(t['slope'], 2):>8}{_figure(t['r2'], 2):>8}"
        )


def _figure(value: float | None, digits: int) -> str:
    """A dash where there is none: nothing varied, or it was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def smoothness(call: argparse.Namespace) -> int:
    run = _opened(call)
    if call.curvature is None:
        _check(run, Smoothness(call.directions, call.seed))
        return 0
    record = run.manifest()
    seconds = curvatures.seconds(record, call.curvature)
    work = f"{curvatures.steps_of_work(record.steps or 0, call.curvature):,} training steps' work"
    print(work if seconds is None else f"{work}: about {in_words(seconds)}", flush=True)
    _check(run, curvatures.Curvature(call.curvature))
    record = run.manifest()
    report = next(iter(trust.sound(record, trust.CURVATURE)[0]))
    print(f"{'step':>8}{'curvature × rate':>20}   limit {_figure(report['limit'], 3)}")
    for t, value in zip(report["steps"], report["values"], strict=True):
        print(f"{t:>8}{_figure(value, 3):>20}")
    print(stability.of_run(record).in_words())
    return 0


def what_if(call: argparse.Namespace) -> int:
    _retrain(_opened(call), WhatIf.of(call.leave_out, call.relabel))
    return 0


def _retrain(run: runs.Run, job: WhatIf) -> None:
    """One retraining, and what it gave beside what the scores say."""
    written = _check(run, job).reports
    for report in trust.what_ifs(run.manifest()):
        if report["name"] in written:
            _print_what_if(run, report)


def self_influence(call: argparse.Namespace) -> int:
    """Says what it costs before it begins."""
    run = _opened(call)
    dataset = datasets.load(run.manifest().config.dataset)
    job = SelfInfluence(call.images, call.together, call.mode or "").check(run, dataset)
    targets = job.replays(run, dataset)
    took = replay_seconds(run.manifest(), targets)
    about = "" if took is None else f", about {in_words(took)}, as replays of this run went"
    print(f"{job.doing()}: {wording.count(targets, 'targets')} to replay{about}", flush=True)
    if targets:
        _execute(run, job)
    record = run.manifest()
    known = self_influences.known(record)
    assert known is not None  # an image at least was asked for
    table = self_influences.ranked(record, dataset, known)
    _give_images(call, table, f"self-influence: {record.window_phrase}" if record.window_phrase else "")
    return 0


def features(call: argparse.Namespace) -> int:
    run = _opened(call)
    _execute(run, Features())
    computed = kept_features.read(run)
    assert computed is not None  # the job has just written them
    folder = run.path / kept_features.FOLDER
    print(f"{folder}: train {computed.train.shape}, test {computed.test.shape}, float32; {computed.of}")
    return 0


def umap(call: argparse.Namespace) -> int:
    run = _opened(call)
    _execute(run, Umap(call.source))
    print(f"{run.path / maps.FOLDER}/umap-{call.source}-train.npy: the places of the training images, float32 [N, 2]")
    return 0


def _print_what_if(run: runs.Run, report: dict) -> None:
    print(
        f"\n{run.path / 'validation' / report['name']}.json; test accuracy {report['test_accuracy_before']:.1%} "
        f"before, {report['test_accuracy']:.1%} retrained{_effect(run.manifest())}\n"
        f"{'target':20}{'before':>10}{'predicted':>11}{'± error':>10}{'retrained':>11}"
    )
    for t in report["targets"]:
        # No prediction where labels were changed, no retrained value of an uploaded image.
        before, predicted, actual = (
            _figure((t[when] or {}).get(t["function"]), 4) for when in ("before", "predicted", "actual")
        )
        error = _figure(t.get("standard_error"), 4)  # none where no validation says it
        print(f"{t['key']:20}{before:>10}{predicted:>11}{error:>10}{actual:>11}")


def removal(call: argparse.Namespace) -> int:
    """Says what it costs before it trains."""
    run = _opened(call)
    if call.csv is not None:
        files.check_writable(Path(call.csv))
    sides = removals.SIDES if call.side is None else (call.side,)
    job = Removal(call.target, call.share, sides, call.random, call.seed)
    record, seconds = run.manifest(), trust.retraining_seconds(run.manifest())
    removals.check_choice(job.fractions, sides, job.draws, job.seed)
    lacking, of = job.lacking(record)
    takes = "each as long as the training" if seconds is None else f"about {lacking * seconds:.0f} s"
    print(f"{lacking:,} of {wording.count(of, 'retrainings')} to be done, {takes}", flush=True)
    written, record = _execute(run, job).reports, run.manifest()
    target = removals.target_of(record, call.target).key
    (report,) = [each for each in removals.reports(record, target) if each["name"] in written]
    _print_removal(run, report)
    if call.csv is not None:
        _write_csv(Path(call.csv), removals.table(report))
    return 0


def _print_removal(run: runs.Run, report: dict) -> None:
    function = report["function"]
    print(
        f"\n{run.path / 'validation' / report['name']}.json; {report['target']}: {function} "
        f"{report['before'][function]:.4f} {report['unit']}{_effect(run.manifest())}\n"
        f"{'left out':20}{'images':>8}{'predicted':>11}{'± error':>10}{'retrained':>11}{'probability':>13}"
    )
    for each in report["sets"]:
        print(
            f"{each['side']:10}{100 * each['fraction']:>8g} %{each['left_out']:>8,}{each['predicted']:>+11.4f}"
            f"{_figure(each['standard_error'], 4):>10}{each['actual']:>+11.4f}{each['after']['probability']:>13.1%}"
        )


def duplicates(call: argparse.Namespace) -> int:
    run = _opened(call)
    target = None if call.target is None else run.manifest().score_sets.target(call.target)
    if call.out is not None:
        files.check_writable(Path(call.out))
    _execute(run, FindDuplicates(call.by, OPEN if call.at_most is None else call.at_most, call.turned))
    record, dataset = run.manifest(), datasets.load(run.manifest().config.dataset)
    found = duplicate_images.known(record, call.by)
    assert found is not None  # as the job has just left it
    target = target or next(iter(record.score_sets.targets()), None)
    scores_N = None if target is None else record.score_sets.row(target)
    print("\n".join(duplicate_images.in_words(found)))
    if call.out is not None:
        table = duplicate_images.listed(found, dataset, scores_N)
        _write_csv(Path(call.out), table, "--out")
        print(f"{call.out}: {wording.count(len(table), 'images')}")
    if call.count and len(found.starts):
        print(duplicate_images.table(found, dataset, scores_N).head(call.count).to_string(index=False))
        if target is not None:
            print(f"influence: the scores of its training images on {target.key}, summed{_effect(record)}")
    return 0


def themes(call: argparse.Namespace) -> int:
    run = _opened(call)
    if call.csv is not None:
        files.check_writable(Path(call.csv))
    record = run.manifest()
    target, dataset = removals.named(record, call.target), _unchanged(record)
    found = theme_finding.find(record, dataset, target, kept_features.read(record), call.top, call.themes)
    left_out = None if call.leave_out is None else found.numbered(call.leave_out)
    for told in theme_finding.lines(found, dataset):
        print(told)
    if record.window_phrase:
        print(f"effects: {record.window_phrase}")
    if call.csv is not None:
        _write_csv(Path(call.csv), theme_finding.table(found, dataset, record))
    if left_out is not None:
        _retrain(run, WhatIf.of(sorted(left_out.images.tolist())))
    return 0


def _check(run: runs.Run, job: Job) -> Result:
    """Executes a job that checks scores, and prints the verdict."""
    result = _execute(run, job)
    verdict = trust.verdict(run.manifest())
    print(f"verdict: {verdict.level}. {verdict.reason}")
    if verdict.step is not None:
        seconds = verdict.step.seconds
        print(verdict.step.in_words("" if seconds is None else f"{seconds:.0f} s"))
    return result


def _execute(run: runs.Run, job: Job | None = None) -> Result:
    from engine.jobs import execute, ranks

    with ranks.held(run), _Bar() as bar, ranks.team(run) as (sharing, cancel):
        print(f"run {run.id}", flush=True)
        result = execute.execute(run, job, cancel, bar.event, sharing)
    record = run.manifest()
    if record.test_accuracy is not None:
        print(f"test accuracy {record.test_accuracy:.1%} on {record.device_name}")
    if result.scores is not None:
        shape = record.score_sets.matrix(result.scores).shape
        print(f"scores {run.path / 'scores' / result.scores}.npy float32 {shape}{_effect(record)}")
    return result


def _effect(record: Manifest) -> str:
    """Behind what is said of scores, where they are not of the whole training."""
    return f"; {record.window_phrase}" if record.window_phrase else ""


class _Bar:
    """One tqdm bar a phase, from the run's events, and its notes. Where nobody reads them, the work goes on."""

    def __init__(self):
        self.bar = self.phase = None
        self.heard = sys.stderr is not None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self._say(self.bar.close)

    def _say(self, write: Callable[..., object], *args: object, **kwargs: object) -> None:
        if self.heard:
            try:
                write(*args, **kwargs)
            except OSError:  # the reader has gone; a run of hours does not end for that
                self.heard = False

    def event(self, event: dict) -> None:
        """Draws one event as the log has it, and with --log-level debug prints it whole."""
        logger.debug("%s", event)
        self._say(self._draw, event)

    def _draw(self, event: dict) -> None:
        from tqdm import tqdm

        if event["kind"] == "note":
            tqdm.write(event["text"], file=sys.stderr)
        elif event["kind"] == "paused":
            tqdm.write(
                f"paused: the disk has {event['disk_free']:,} bytes free, and {event['needed']:,} are "
                "needed; free some, and the run goes on",
                file=sys.stderr,
            )
        if event["kind"] != "progress":
            return
        if event["phase"] != self.phase:
            if self.bar is not None:
                self.bar.close()
            self.phase = event["phase"]
            self.bar = tqdm(total=event["steps"], desc=self.phase, unit="step")
        if self.bar is not None:
            self.bar.update(event["step"] - self.bar.n)
            if event.get("losses"):
                self.bar.set_postfix(loss=f"{event['losses'][-1]:.3f}")


# -- what needs no training


def estimate(call: argparse.Namespace) -> int:
    from engine.jobs.estimate import estimate

    config = _configured(call)
    costs = estimate(config, runs.outputs_root(call.outputs), measure=True)
    start = costs.steps - costs.counted
    if start:
        phrase = configs.window_phrase(start, costs.steps)
        print(f"weights count from step {start + 1:,} on, and {costs.counted:,} steps are replayed: {phrase}")
    print(
        f"{costs.steps:,} steps of {costs.parameters:,} parameters and {costs.buffers:,} buffers; "
        f"{wording.count(len(config.targets), 'targets')}; {costs.device_name}\n"
        f"training {costs.train_seconds:.1f} s; a segment is {costs.segment:,} steps\n"
        f"free: disk {costs.disk_free / 1e9:.1f} GB, RAM {costs.ram_free / 1e9:.1f} GB"
        + (f", GPU {costs.gpu_free / 1e9:.1f} GB" if costs.gpu_free else "")
        + "\n"
    )
    print(
        f"{'mode':11}{'disk kept':>12}{'disk peak':>12}{'RAM peak':>12}{'GPU peak':>12}{'time':>10}"
        f"{'× training':>12}  fits"
    )
    for name, mode in costs.modes.items():
        gpu = f"{mode.gpu / 1e6:,.1f} MB" if mode.gpu else "-"
        ratio = mode.seconds / costs.train_seconds if mode.seconds and costs.train_seconds else None
        print(
            f"{name:11}{mode.disk / 1e6:>9,.1f} MB{mode.disk_peak / 1e6:>9,.1f} MB{mode.ram / 1e6:>9,.0f} MB"
            f"{gpu:>12}{mode.seconds:>8,.1f} s{_figure(ratio, 1):>12}  "
            f"{'yes' if not mode.problem else 'no: ' + mode.problem}"
        )
    print(f"\nrecommended: {costs.recommended or 'none of them fits'}")
    return 0 if costs.recommended else 1


def probe(call: argparse.Namespace) -> int:
    """Says what it costs before it measures; what was measured before is printed again."""
    from engine import device as devices
    from engine.jobs.estimate import check_device_is_free

    root, config = runs.outputs_root(call.outputs), _configured(call)
    report = None if call.again else probes.known(root, config)
    if report is None:
        check_device_is_free(devices.choose(config.device).type, root)
        cost = probes.cost(config)
        print(f"{cost.trainings} trainings, {cost.steps:,} steps in all: about {cost.seconds:.0f} s", flush=True)
        report = probes.measure(root, config, on_progress=_shown("Probing"))
    each = " and ".join(_figure(value, 3) for value in report.metasmoothness) or "-"
    print(f"metasmoothness {each}; {report.seconds:.1f} s on {report.device}, {report.created}")
    print(f"verdict: {report.verdict.level}. {report.verdict.reason}")
    print(probes.path_of(root, report.training_digest))
    return 0


def config(call: argparse.Namespace) -> int:
    """Prints what `run` would run. Its data set is not looked at, for that may be on another machine; so targets and
    target function, which may name its classes, are printed as they are written, and judged by `run`. Only a proposal
    needs the data: its reasons are comments at the head of the file."""
    reasons: tuple[str, ...] = ()
    if call.run is not None:
        start = runs.Run.open(runs.outputs_root(call.outputs), call.run).manifest().config
    else:
        start, reasons = _start(call)
    config, default = _changed(call, start), configs.RunConfig()
    configs.check(config.replace(targets=default.targets, target_function=default.target_function))
    for reason in reasons:
        print(textwrap.fill(reason, 112, initial_indent="# ", subsequent_indent="#   "))
    print(config_file.dumps(config), end="")
    return 0


def list_suspects(call: argparse.Namespace) -> int:
    record = _opened(call).manifest()
    _unchanged(record)
    by = call.by or suspects.better_order(suspects.ranked(record, call.target))[0]
    table = suspects.ranked(record, call.target, by)
    _give_images(call, table, f"harm: {record.window_phrase}" if record.window_phrase else "")
    return 0


def _give_images(call: argparse.Namespace, table: "pd.DataFrame", remark: str = "") -> None:
    """A table of training images, as `--csv` and `--count` ask for it; the remark below what is printed."""
    if call.csv is not None:
        _write_csv(Path(call.csv), table)
        print(f"{call.csv}: {len(table):,} training images")
    if call.count:
        print(table.head(call.count).to_string(index=False))
        if remark:
            print(remark)


def _write_csv(path: Path, table: "pd.DataFrame", option: str = "--csv") -> None:
    files.check_writable(path)
    try:
        files.spreadsheet_safe(table).to_csv(path, index=False)
    except OSError as error:
        raise ConfigError(
            f"{option} {path} cannot be written ({error.strerror or error}).",
            "Name a file in a folder that is there and that you may write.",
        ) from error


def corrections(call: argparse.Namespace) -> int:
    from engine.library import correcting

    if call.dry_run and (call.train or call.dataset or call.csv is not None):
        raise ConfigError(
            "--dry-run says what --read, --copy-to and --apply would do, and nothing else can be tried.",
            "Leave it away.",
        )
    run = _opened(call)
    if call.train:
        config = correcting.config(run)  # refused at once, before anything takes long
        load_torch()
        _execute(runs.Run.create(run.root, config))
    elif call.dataset:
        print(correcting.dataset_name(run))
    elif call.csv is not None:
        print(correcting.write(run, Path(call.csv)))
    elif call.read is not None:
        print(correcting.take(run, Path(call.read), call.dry_run))
    else:
        to = None if call.copy_to is None else Path(call.copy_to)
        lines = correcting.move(run, call.dry_run) if call.apply else correcting.shown(run)
        for line in lines if to is None else correcting.copy(run, to, call.dry_run):
            print(line)
    return 0


def export(call: argparse.Namespace) -> int:
    with _ended_in_order():
        run = _opened(call)
        material = Material.of(run, call.targets, call.split, _prepared(run.manifest().config.dataset))
        out, report = Path(call.out), _shown("Exporting")
        exports.write(material, call.format, out, call.pixels, lambda done, of: report(done, of, None))
    print(
        f"{out}: {wording.count(material.rows, 'images')}, {wording.count(len(material.targets), 'targets')}; "
        f"{files.size_of(out):,} bytes{_effect(material.record)}"
    )
    return 0


# -- several seeds


def repeat(call: argparse.Namespace) -> int:
    """Says what it costs before it trains. Interrupted, the same call goes on."""
    run = _opened(call)
    plan = repeats.plan(run, call.seeds, not call.no_validation)
    numbers = ", ".join(map(str, plan.group.seeds))
    if plan.open:
        print(f"seeds {numbers}: {plan.cost.in_words()}; {plan.cost.bytes / 1e6:,.1f} MB on the disk", flush=True)
    ids = repeats.prepare(plan)
    for number, run_id in enumerate(ids, 1):
        other = runs.Run.open(run.root, run_id)
        print(f"seed {other.manifest().config.recipe.seed}, {number} of {len(ids)} to do")
        _execute(other)
    busy = [member.run.id for member in plan.members if member.busy and member.run is not None]
    for run_id in busy:
        print(f"run {run_id} is in progress, and stays as it is: call this again once it is done")
    if not busy:
        print(f"seeds {numbers}: done; python -m engine mean {run.id} averages their scores")
    return 0


def mean(call: argparse.Namespace) -> int:
    run = _opened(call)
    root, record = run.root, run.manifest()
    others = runs.list_runs(root) if call.others is None else [runs.Run.open(root, each) for each in call.others]
    records = seeds.alike(record, others) if call.others is None else [record, *(each.manifest() for each in others)]
    averaged = {each.target.key: each for each in seeds.over_seeds(records)}
    key = call.target or next(iter(averaged))
    if key not in averaged:
        raise ConfigError(f"These runs have no target «{key}» in common.", f"They have {', '.join(averaged)}.")
    of, dataset = averaged[key], _unchanged(record)
    table = seeds.table(of, dataset)
    window = f"; {record.window_phrase}" if record.window_phrase else ""
    print(f"{key}: mean of {len(of.seeds)} trainings, seeds {', '.join(map(str, of.seeds))}{window}")
    for sentence in overlap.in_sentences(of, overlap.PROPOSED, "trainings"):
        print(sentence)
    if (others_told := seeds.for_others(records)) is not None:
        print(seeds.in_words(others_told))
    _give_images(call, table)
    return 0


def report(call: argparse.Namespace) -> int:
    reports.write(_opened(call), call.out, call.targets, call.images, call.notes, call.force, call.pdf)
    return 0


def compare(call: argparse.Namespace) -> int:
    table, images = comparing.compare(runs.outputs_root(call.outputs), call)
    if call.csv is not None:
        _write_csv(Path(call.csv), table)
        print(f"{call.csv}: {wording.count(len(table), 'runs')}")
    if images is not None and call.images_csv is not None:
        _write_csv(Path(call.images_csv), images)
        print(f"{call.images_csv}: {len(images):,} training images")
    return 0


def list_runs(call: argparse.Namespace) -> int:
    root = runs.outputs_root(call.outputs)
    summaries = runs.summaries(root)
    if not summaries:
        print(f"no runs in {root}; start one with: python -m engine run --preset sample")
    for run in summaries:
        accuracy = "" if run.test_accuracy is None else f"{run.test_accuracy:.1%}"
        targets = "" if run.targets_scored is None else wording.count(run.targets_scored, "targets")
        used = sum(runs.Run(root, run.id).storage().sizes().values())
        facts = f"{run.id:40} {run.status:12} {used / 1e6:9.1f} MB {accuracy:>6} {run.remark or targets:12}"
        name = "" if run.remark else notes.name_of(runs.Run(root, run.id))
        print(f"{facts} {config_file.printable(name)}".rstrip())
    for name, reason in runs.passed_over(root):
        print(f"not shown: {name!r} ({reason})")
    return 0


def info(call: argparse.Namespace) -> int:
    run = _opened(call)
    record, (events, _) = run.manifest(), run.events()
    facts = {
        "run": run.id,
        "path": str(run.path),
        "status": record.status,
        "bytes": run.storage().sizes(),
        "targets": [t.key for t in record.score_sets.targets()],
        "modes": record.modes(),
        "window": record.window_phrase or "effect of the whole training",
        "resumable": record.resumable,
        "config": record.config.to_dict(),
        "manifest": record.to_json(),
        "events": Counter(e["kind"] for e in events),
    }
    print(json.dumps(facts, indent=1))
    return 0


def storage(call: argparse.Namespace) -> int:
    root = runs.outputs_root(call.outputs)
    print(f"{'run':40}" + "".join(f"{part:>14}" for part in storages.PARTS) + f"{'in all':>14}   bytes")
    for run in runs.list_runs(root):
        sizes = run.storage().sizes()
        print(f"{run.id:40}" + "".join(f"{n:>14,}" for n in [*sizes.values(), sum(sizes.values())]))
    print(f"{root}: {files.size_of(root):,} bytes used, {space.disk_free(root):,} free")
    return 0


def clean(call: argparse.Namespace) -> int:
    root, verb = runs.outputs_root(call.outputs), "would free" if call.dry_run else "freed"
    chosen = [runs.Run(root, run_id) for run_id in dict.fromkeys(call.runs)]
    for run in chosen:  # all are there, or none is touched; what is half-deleted can be deleted again
        run.storage().check_there() if call.all else runs.Run.open(root, run.id)
    for run in chosen:
        if call.all:
            freed = run.storage().delete(dry_run=call.dry_run)
        else:
            freed = run.storage().clean(call.parts, dry_run=call.dry_run)
        print(f"{run.id}: {verb} {freed:,} bytes")
    return 0


def app(call: argparse.Namespace) -> int:
    """Becomes Streamlit's server, in this process: what stops the command stops the server."""
    from engine.library import serving

    port = ("--server.port", str(call.port)) if call.port else ()
    arguments = serving.command(*port, outputs=call.outputs)
    if sys.stdout is not None:
        sys.stdout.flush()
    os.execv(sys.executable, arguments)


def show(call: argparse.Namespace) -> int:
    """Makes a run of scores that another program made, and shows it in the app."""
    from engine.library import serving, showing

    given = showing.Imported(
        **{name: getattr(call, name) for name in showing.OPTIONS},
        classes=call.classes,
    )
    root = runs.outputs_root(call.outputs)
    with _ended_in_order():
        path = showing.make(given, root / runs.new_run_id("scores"), _shown("Preparing the data"))
    record = runs.Run.open(root, path.name).manifest()
    print(f"run {path.name}")
    for sidecar in record.score_sets.sidecars():
        shape = record.score_sets.matrix(sidecar["name"]).shape
        print(f"scores {path / 'scores' / sidecar['name']}.npy float32 {shape}; {sidecar['sign']}")
        _tell(tuple(f"note: {text}" for text in sidecar["noticed"]))
    if record.test_accuracy is not None:
        print(f"test accuracy {record.test_accuracy:.1%}, by the logits that were given", flush=True)
    if call.open:
        serving.show(path, wait=True)
    else:
        print(f"look at it: python -m engine app --outputs {root}", flush=True)
    return 0


# -- what the call says


def _opened(call: argparse.Namespace) -> runs.Run:
    return runs.Run.open(runs.outputs_root(call.outputs), call.run)


def _unchanged(record: Manifest) -> Dataset:
    """The run's data set. Raises `DataError` where it is not the one that the run was made with."""
    dataset = _prepared(record.config.dataset)
    remedy = "Restore it: scores belong to the images that they were computed for."
    datasets.require_same(dataset, record.config.dataset, record.data_fingerprint, f"run {record.run_id}", remedy)
    return dataset


def _configured(call: argparse.Namespace) -> configs.RunConfig:
    """What the call starts from, with its changes, checked against its data set. A proposal says its reasons."""
    start, reasons = _start(call)
    _tell(reasons)
    config = _changed(call, start)
    dataset = _prepared(config.dataset)
    if call.config is None and config.targets == start.targets and dataset.name != start.dataset:
        config = config.replace(targets=proposal.targets(dataset.sizes.n_test))  # a preset's are of its own images
    return configs.check(configs.read_questions(config, dataset), *dataset.sizes)


def _start(call: argparse.Namespace) -> tuple[configs.RunConfig, tuple[str, ...]]:
    """The file or the preset that the call names, or for data of one's own what its sizes propose, with the reasons."""
    if call.config is not None:
        return config_file.read(call.config), ()
    if call.preset is None and call.data is not None and call.data not in FASHION_MNIST:
        proposed = proposal.for_dataset(_prepared(datasets.canonical(call.data)))
        return proposed.config, proposed.reasons
    noisy = call.data == configs.PRESETS["sample-noisy"].dataset
    return configs.preset(call.preset or ("sample-noisy" if noisy else "sample")), ()


def _tell(sentences: tuple[str, ...]) -> None:
    """On the terminal, beside what the command prints; where nobody reads it, the work goes on."""
    with contextlib.suppress(OSError):
        for sentence in sentences if sys.stderr is not None else ():
            print(sentence, file=sys.stderr)


def _changed(call: argparse.Namespace, config: configs.RunConfig) -> configs.RunConfig:
    """A configuration with the call's options, which win over it."""
    changes = dict(_setting(text) for text in call.settings)
    called = (
        ("dataset", call.data),
        ("model", call.model),
        ("target_function", call.function),
        ("replay_mode", call.mode),
        ("window", call.window),
        ("targets", call.targets),
    )
    for name, value in called:
        if value is not None:
            changes[name] = value
    config = config.replace(**changes)
    return config.replace(dataset=datasets.canonical(config.dataset))


def _prepared(name: str) -> Dataset:
    """The data set; where its files are decoded, how far that is stands on one line of the terminal."""
    with _ended_in_order():
        return datasets.load(name, _shown("Preparing the data"))


def _shown(what: str) -> Callable[[int, int, float | None], None]:
    """What hears of (done, of, seconds left), and says it on one line of the terminal, where there is one."""
    shown = 0.0

    def report(done: int, of: int, seconds_left: float | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if sys.stderr.isatty() and (now - shown > 0.2 or done == of):
            shown = now
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            end = "\n" if done == of else ""
            print(f"\r{what}: {done:,} of {of:,}{left}    ", end=end, file=sys.stderr, flush=True)

    return report


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Here a SIGTERM unwinds as Ctrl-C does, so that nothing half made is left. A run, which is resumed, needs none."""

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def data(call: argparse.Namespace) -> int:
    """Prepares a data set and prints what is in it, and what is wrong with it."""
    name = datasets.canonical(call.data)
    if call.delete:
        if (fault := datasets.problem(name)) is not None:
            raise name_error(name, fault)
        print(f"freed {datasets.delete(name):,} bytes")
        return 0
    dataset = _prepared(name)
    height, width, channels = dataset.image_shape
    print(f"{dataset.name}\n{dataset.title}; {dataset.source}")
    print(f"{width} × {height} pixels, {'grey' if channels == 1 else 'colour'}; fingerprint {dataset.fingerprint[:16]}")
    for note in store.notes(dataset):
        print(note)
    print(f"{'class':40}{'training':>10}{'test':>10}")
    rows = zip(dataset.classes, *(dataset.counts(split).tolist() for split in SPLITS), strict=True)
    for name, train, test in rows:
        print(f"{name[:39]:40}{train:10,}{test:10,}")
    print(f"{'all':40}{dataset.sizes.n_train:10,}{dataset.sizes.n_test:10,}")
    problems = store.problems(dataset)
    for problem in problems[:PROBLEMS]:
        print(f"{problem['kind']}: {problem['file']}: {problem['detail']}")
    if problems[PROBLEMS:]:
        print(f"and {len(problems) - PROBLEMS:,} more in {dataset.folder}/problems.json")
    return 0


def _setting(text: str) -> tuple[str, object]:
    """Name and value of one --set. `configs.check` judges the value."""
    name, equals, value = text.partition("=")
    known = [*configs.RANGES, *configs.CHOICES, *configs.TEXTS, *configs.FLAGS, *configs.LISTS]
    if not equals or name not in known:
        raise ConfigError(f"--set {text} is not NAME=VALUE with a known name.", f"The names are {', '.join(known)}.")
    if name in configs.CHOICES or name in configs.TEXTS:
        return name, value
    if name in configs.LISTS:
        return name, configs.LISTS[name].read(value)
    if value in ("true", "false"):
        return name, value == "true"
    try:
        whole = re.fullmatch(r"[+-]?[0-9]{1,18}", value) and (name in configs.FLAGS or configs.RANGES[name].kind is int)
        return name, int(value) if whole else float(value)
    except ValueError:
        raise ConfigError(
            f"--set {text}: {value!r} is no number.", "Write it like 0.05 or 8.", {name: "is no number"}
        ) from None


def is_rank(call: argparse.Namespace) -> bool:
    """Whether this process does the call as one rank of several. Raises `ConfigError` for a command that ranks cannot
    share; that needs no torch, which takes seconds to load."""
    command = COMMANDS[call.command]
    if os.environ.get("TORCHELASTIC_RUN_ID") is None or not command.trains:
        return False
    from engine.jobs import launch

    if not launch.launched():
        return False
    if not command.shared:
        names = ", ".join(name for name, each in COMMANDS.items() if each.shared)
        raise ConfigError(
            f"«{call.command}» is not shared out among ranks.", f"Call it without torchrun; with it: {names}."
        )
    return True


def do(call: argparse.Namespace, as_rank: bool) -> int:
    """Does what the call says, in one process or as one rank of several, and returns the exit code."""
    command = COMMANDS[call.command]
    if not as_rank:
        return command.do(call)
    from engine.jobs import ranks

    ranks.take_device()
    return ranks.follow(runs.outputs_root(call.outputs)) if ranks.rank() else command.do(call)


class Command(NamedTuple):
    """`do(call)` returns the exit code; `trains` says whether torch is loaded first, `tables` whether pandas is,
    `shared` whether several ranks of torchrun can do it together."""

    do: Callable[[argparse.Namespace], int]
    trains: bool = False
    tables: bool = False
    shared: bool = False


COMMANDS = {
    "run": Command(run, trains=True, shared=True),
    "data": Command(data),
    "estimate": Command(estimate, trains=True),
    "probe": Command(probe, trains=True),
    "config": Command(config),
    "attribute": Command(attribute, trains=True, shared=True),
    "resume": Command(resume, trains=True, shared=True),
    "rebuild": Command(rebuild, trains=True),
    "validate": Command(validate, trains=True, shared=True),
    "merge": Command(merge, trains=True),
    "smoothness": Command(smoothness, trains=True),
    "what-if": Command(what_if, trains=True),
    "removal": Command(removal, trains=True, tables=True),
    "themes": Command(themes, trains=True, tables=True),
    "self-influence": Command(self_influence, trains=True, tables=True),
    "features": Command(features, trains=True),
    "umap": Command(umap, trains=True),
    "duplicates": Command(duplicates, trains=True, tables=True),
    "suspects": Command(list_suspects, tables=True),
    "corrections": Command(corrections, tables=True),
    "export": Command(export, tables=True),
    "repeat": Command(repeat, trains=True),
    "mean": Command(mean, tables=True),
    "report": Command(report),
    "compare": Command(compare, tables=True),
    "list": Command(list_runs),
    "info": Command(info),
    "storage": Command(storage),
    "clean": Command(clean),
    "show": Command(show, trains=True, tables=True),
    "app": Command(app),
}

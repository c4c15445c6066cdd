"""The engine from the command line: `python -m engine --help`.

Exit codes: 0 done, 1 the run failed, 2 the call or its settings are wrong, 3 no such run,
130 interrupted from the keyboard.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path

from engine import config as configs
from engine import files, space
from engine.analysis import trust
from engine.analysis import what_if as what_ifs
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, ReplayError, RunNotFoundError
from engine.runs import job as run_jobs
from engine.runs import run as runs
from engine.targets import FUNCTIONS

OK, FAILED, USAGE, NOT_FOUND, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """examples:
  python -m engine run --preset sample --targets test:0,test:1
  python -m engine run --preset sample --set recipe.epochs=4 --set target_function=margin
  python -m engine estimate --preset resnet9 --set recipe.epochs=20
  python -m engine attribute RUN --targets class:6,test:all --function margin
  python -m engine resume RUN
  python -m engine rebuild RUN --mode recompute
  python -m engine validate RUN --subsets 50 --drop 0.01,0.05
  python -m engine smoothness RUN
  python -m engine what-if RUN --leave-out 17,4711 --relabel 23=6
  python -m engine suspects RUN --csv suspects.csv
  python -m engine list
  python -m engine info RUN
  python -m engine clean RUN --parts trajectory --dry-run
  python -m engine storage

targets: test:INDEX (one test image), class:INDEX (all test images of a class), test:all.
Runs live in --outputs, else in REPLAY_OUTPUTS_DIR, else in ./outputs. With REPLAY_READ_ONLY=1 they
are shown, and nothing is started, deleted or written. `RUN --help` of each command says more. Scores are outputs/RUN/scores/*.npy, float32 [targets, training images];
the .json beside each names targets, target function, sign and unit."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m engine",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train an image classifier, then replay its training backwards to score every "
        "training image for each target.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--outputs", metavar="DIR", help="folder of all runs")
    common.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--preset", default="sample", help=f"one of {', '.join(configs.PRESETS)} (sample)")
    settings.add_argument("--targets", metavar="T,T,…", help="targets, such as test:0,class:3")
    settings.add_argument("--function", choices=tuple(FUNCTIONS), help="target function (loss)")
    settings.add_argument("--mode", choices=configs.REPLAY_MODES, help="where the trajectory is kept")
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="change one setting of the preset; may be repeated",
    )
    for name, what in (
        ("run", "train, replay, print where the scores are"),
        ("estimate", "memory, disk and time of each replay mode, from a short measurement"),
    ):
        commands.add_parser(
            name,
            parents=[common, settings],
            help=what,
            epilog=_settings(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    attribute = commands.add_parser(
        "attribute", parents=[common], help="score further targets of a trained run, without training"
    )
    attribute.add_argument("run", metavar="RUN")
    attribute.add_argument("--targets", required=True, metavar="T,T,…")
    attribute.add_argument("--function", choices=tuple(FUNCTIONS), default="loss")
    attribute.add_argument(
        "--mode",
        choices=configs.REPLAY_MODES,
        help="another replay mode than that of the trajectory kept; trains again where it must",
    )

    resume = commands.add_parser(
        "resume", parents=[common], help="go on with a run that was killed, cancelled or failed"
    )
    resume.add_argument("run", metavar="RUN")
    rebuild = commands.add_parser(
        "rebuild",
        parents=[common],
        help="train once more, to make deleted or damaged checkpoints again, or those of another mode",
    )
    rebuild.add_argument("run", metavar="RUN")
    rebuild.add_argument("--mode", choices=configs.REPLAY_MODES[1:], default="disk", help="(disk)")

    validate = commands.add_parser(
        "validate",
        parents=[common],
        help="train again without random subsets, and compare what happens with what the scores say",
    )
    validate.add_argument("run", metavar="RUN")
    validate.add_argument("--subsets", type=int, default=32, metavar="M", help="retrainings a fraction (32)")
    validate.add_argument("--drop", type=_drops, default=(0.01,), metavar="F,F", help="fractions to leave out (0.01)")
    validate.add_argument("--seed", type=int, default=0, help="of the subsets (0)")
    smoothness = commands.add_parser(
        "smoothness", parents=[common], help="how straight the training's answer to changed weights is"
    )
    smoothness.add_argument("run", metavar="RUN")
    smoothness.add_argument(
        "--directions", type=int, default=2, metavar="D", help="random directions, two trainings each (2)"
    )
    smoothness.add_argument("--seed", type=int, default=0, help="of the directions (0)")
    what_if = commands.add_parser(
        "what-if",
        parents=[common],
        help="train again without some images, or with other labels, beside what the scores predict",
    )
    what_if.add_argument("run", metavar="RUN")
    what_if.add_argument("--leave-out", default="", metavar="I,I", help="training images")
    what_if.add_argument(
        "--relabel", default="", metavar="I=C,I=C", help="training images and their other labels, by number"
    )
    suspects = commands.add_parser(
        "suspects", parents=[common], help="training images by the harm they do: the likeliest wrong labels first"
    )
    suspects.add_argument("run", metavar="RUN")
    suspects.add_argument("--target", metavar="KEY", help="by which target (test:all where it was scored)")
    suspects.add_argument(
        "--by",
        choices=("harm", "loss"),
        default="harm",
        help="the order: harm to the target, or the trained model's loss on the label given (harm)",
    )
    suspects.add_argument("--count", type=int, default=20, metavar="K", help="how many to print (20)")
    suspects.add_argument("--csv", metavar="FILE", help="write all of them")

    commands.add_parser("list", parents=[common], help="every run with status, size and accuracy")
    info = commands.add_parser("info", parents=[common], help="one run as JSON")
    info.add_argument("run", metavar="RUN")
    commands.add_parser("storage", parents=[common], help="what fills the disk, by run and part")

    clean = commands.add_parser("clean", parents=[common], help="delete parts of runs, or whole runs")
    clean.add_argument("runs", metavar="RUN", nargs="+")
    what = clean.add_mutually_exclusive_group(required=True)
    what.add_argument("--parts", metavar="P,P", help=f"of {', '.join(runs.CLEANABLE)}")
    what.add_argument("--all", action="store_true", help="the whole run")
    clean.add_argument("--dry-run", action="store_true", help="say the bytes, delete nothing")
    return top


def _settings() -> str:
    lines = ["settings for --set:"]
    lines += [f"  {name:24}{r.low:g} to {r.high:g}. {r.what}" for name, r in configs.RANGES.items()]
    lines += [f"  {name:24}{', '.join(choices)}" for name, choices in configs.CHOICES.items()]
    lines += [f"  {name:24}true, false" for name in configs.FLAGS]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    logging.basicConfig(level=given.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        return COMMANDS[given.command](given, runs.outputs_root(given.outputs))
    except ReplayError as error:
        logging.debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, RunNotFoundError):
            return NOT_FOUND
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _configured(given) -> configs.RunConfig:
    config = configs.preset(given.preset)
    changes = dict(_setting(text) for text in given.settings)
    for name, value in (("target_function", given.function), ("replay_mode", given.mode)):
        if value is not None:
            changes[name] = value
    if given.targets is not None:
        changes["targets"] = _targets(given.targets)
    config = config.replace(**changes)
    dataset = dataset_registry.load(config.dataset)
    return configs.check(config, len(dataset.train_labels), len(dataset.test_labels), len(dataset.classes))


def _run(given, root: Path) -> int:
    return _execute(runs.Run.create(root, _configured(given)))


def _attribute(given, root: Path) -> int:
    run = runs.Run.open(root, given.run)
    return _execute(run, run_jobs.Job("replay", run.mode_for(given.mode), _targets(given.targets), given.function))


def _rebuild(given, root: Path) -> int:
    return _execute(runs.Run.open(root, given.run), run_jobs.Job("rebuild", given.mode))


def _resume(given, root: Path) -> int:
    return _execute(runs.Run.open(root, given.run))


def _validate(given, root: Path) -> int:
    run = runs.Run.open(root, given.run)
    code = _check(
        run, run_jobs.Job("validate", options={"subsets": given.subsets, "drops": given.drop, "seed": given.seed})
    )
    for report in trust.reports(run):
        if report["drop"] not in given.drop or report["seed"] != given.seed or report["subsets"] != given.subsets:
            continue
        print(
            f"\n{run.path / 'validation' / report['name']}.json\n"
            f"{report['function']}, {report['subsets']} subsets, {100 * report['drop']:g} % left out "
            f"({report['left_out']:,} images): LDS {report['lds_mean']:.3f} "
            f"({report['lds_mean_low']:.3f} to {report['lds_mean_high']:.3f}), slope {report['slope_mean']:.2f}, "
            f"R² {report['r2_mean']:.2f}; noise {100 * report['noise_share']:.2g} % of the variance"
        )
        print(f"{'target':12}{'LDS':>8}{'95 % interval':>20}{'slope':>8}{'R²':>8}")
        for t in report["targets"]:
            print(f"{t['name']:12}{t['lds']:8.3f}{t['low']:10.3f} to{t['high']:7.3f}{t['slope']:8.2f}{t['r2']:8.2f}")
    return code


def _smoothness(given, root: Path) -> int:
    run = runs.Run.open(root, given.run)
    return _check(run, run_jobs.Job("smoothness", options={"directions": given.directions, "seed": given.seed}))


def _what_if(given, root: Path) -> int:

    run = runs.Run.open(root, given.run)
    try:
        left_out = [int(i) for i in given.leave_out.split(",") if i]
        relabelled = {int(i): int(c) for i, _, c in (pair.partition("=") for pair in given.relabel.split(",") if pair)}
    except ValueError:
        raise ConfigError(
            "--leave-out takes image numbers, and --relabel pairs of them with label numbers.",
            "Write them like --leave-out 3,14 --relabel 15=9.",
        ) from None
    left_out, relabelled = what_ifs.check_changes(left_out, relabelled, dataset_registry.load(run.config.dataset))
    code = _check(
        run,
        run_jobs.Job(
            "what-if", options={"left_out": left_out.tolist(), "relabelled": {str(i): c for i, c in relabelled.items()}}
        ),
    )
    report = trust.what_ifs(run)[-1]
    print(
        f"\n{run.path / 'validation' / report['name']}.json; test accuracy {report['test_accuracy_before']:.1%} "
        f"before, {report['test_accuracy']:.1%} retrained\n{'target':20}{'before':>10}{'predicted':>11}{'retrained':>11}"
    )
    for t in report["targets"]:
        function, predicted = t["function"], t["predicted"]
        said = f"{predicted[function]:.4f}" if predicted else "-"
        print(f"{t['key']:20}{t['before'][function]:>10.4f}{said:>11}{t['actual'][function]:>11.4f}")
    return code


def _suspects(given, root: Path) -> int:
    from engine.analysis import suspects

    run = runs.Run.open(root, given.run)
    found = suspects.ranked(run, given.target, given.by)
    if given.csv:
        files.check_writable(Path(given.csv))
        found.to_csv(given.csv, index=False)
        print(f"{given.csv}: {len(found):,} training images")
    print(found.head(given.count).to_string(index=False))
    return OK


def _check(run: runs.Run, job: run_jobs.Job) -> int:
    """Executes a job that checks scores, and prints the verdict."""
    code = _execute(run, job)
    verdict = trust.verdict(run)
    print(f"verdict: {verdict.level}. {verdict.reason}")
    return code


def _execute(run: runs.Run, job: run_jobs.Job | None = None) -> int:
    from engine.jobs import execute as work

    with run.locked(), _Bar() as bar:
        print(f"run {run.id}", flush=True)
        name = work.execute(run, job, on_event=bar.event)
    manifest = run.manifest
    print(f"test accuracy {manifest['test_accuracy']:.1%} on {manifest['device_name']}")
    if name in [s["name"] for s in run.score_sets()]:
        print(f"scores {run.path / 'scores' / name}.npy float32 {run.scores(name).shape}")
    return OK


def _estimate(given, root: Path) -> int:
    from engine.jobs.estimate import estimate

    config = _configured(given)
    told = estimate(config, root, measure=True)
    print(
        f"{told.steps:,} steps of {told.parameters:,} parameters and {told.buffers:,} buffers; "
        f"{len(config.targets)} targets; {told.device_name}\n"
        f"training {told.train_seconds:.1f} s; a segment is {told.segment:,} steps\n"
        f"free: disk {told.disk_free / 1e9:.1f} GB, RAM {told.ram_free / 1e9:.1f} GB"
        + (f", GPU {told.gpu_free / 1e9:.1f} GB" if told.gpu_free else "")
        + "\n"
    )
    print(
        f"{'mode':11}{'disk kept':>12}{'disk peak':>12}{'RAM peak':>12}{'GPU peak':>12}{'time':>10}{'× training':>12}  fits"
    )
    for name, mode in told.modes.items():
        gpu = f"{mode.gpu / 1e6:,.1f} MB" if mode.gpu else "-"
        print(
            f"{name:11}{mode.disk / 1e6:>9,.1f} MB{mode.disk_peak / 1e6:>9,.1f} MB{mode.ram / 1e6:>9,.0f} MB"
            f"{gpu:>12}{mode.seconds:>8,.1f} s{mode.seconds / told.train_seconds:>12.1f}  "
            f"{'yes' if not mode.problem else 'no: ' + mode.problem}"
        )
    print(f"\nrecommended: {told.recommended or 'none of them fits'}")
    return OK if told.recommended else FAILED


class _Bar:
    """One tqdm bar a phase, from the run's events, and its notes."""

    def __enter__(self):
        self.bar = self.phase = None
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()

    def event(self, event: dict) -> None:
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
            self.__exit__()
            self.phase = event["phase"]
            self.bar = tqdm(total=event["steps"], desc=self.phase, unit="step")
        self.bar.update(event["step"] - self.bar.n)
        if event.get("losses"):
            self.bar.set_postfix(loss=f"{event['losses'][-1]:.3f}")


def _list(given, root: Path) -> int:
    found = runs.list_runs(root)
    if not found:
        print(f"no runs in {root}; start one with: python -m engine run --preset sample")
    for run in found:
        accuracy = targets = ""
        try:
            value = run.manifest.get("test_accuracy")
            accuracy = "" if value is None else f"{value:.1%}"
            targets = f"{len(run.targets())} targets"
        except ReplayError:
            pass  # the status says damaged; `info` says why
        print(f"{run.id:40} {run.status:12} {sum(run.sizes().values()) / 1e6:9.1f} MB {accuracy:>6} {targets}")
    return OK


def _info(given, root: Path) -> int:
    run = runs.Run.open(root, given.run)
    events, _ = run.events()
    print(
        json.dumps(
            {
                "run": run.id,
                "path": str(run.path),
                "status": run.status,
                "bytes": run.sizes(),
                "targets": [t.key for t in run.targets()],
                "modes": run.modes(),
                "resumable": run.resumable,
                "config": run.config.to_dict(),
                "manifest": run.manifest,
                "events": Counter(e["kind"] for e in events),
            },
            indent=1,
        )
    )
    return OK


def _storage(given, root: Path) -> int:
    print(f"{'run':40}" + "".join(f"{part:>14}" for part in runs.PARTS) + f"{'in all':>14}   bytes")
    for run in runs.list_runs(root):
        sizes = run.sizes()
        print(f"{run.id:40}" + "".join(f"{n:>14,}" for n in [*sizes.values(), sum(sizes.values())]))
    print(f"{root}: {files.size_of(root):,} bytes used, {space.disk_free(root):,} free")
    return OK


def _clean(given, root: Path) -> int:
    verb = "would free" if given.dry_run else "freed"
    for name in given.runs:
        run = runs.Run.open(root, name)
        if given.all:
            freed = run.delete(dry_run=given.dry_run)
        else:
            freed = run.clean(tuple(given.parts.split(",")), dry_run=given.dry_run)
        print(f"{run.id}: {verb} {freed:,} bytes")
    return OK


def _targets(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _drops(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part)


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    known = [*configs.RANGES, *configs.CHOICES, *configs.FLAGS]
    if not equals or name not in known:
        raise ConfigError(f"--set {text} is not NAME=VALUE with a known name.", f"The names are {', '.join(known)}.")
    if name in configs.CHOICES:
        return name, value
    try:
        parsed = json.loads(value)  # numbers, true and false; `check` judges the rest
    except ValueError:
        raise ConfigError(
            f"--set {text}: {value!r} is no number.", "Write it like 0.05 or 8.", {name: "is no number"}
        ) from None
    if name in configs.RANGES and configs.RANGES[name].kind is float and isinstance(parsed, int):
        parsed = parsed if isinstance(parsed, bool) else float(parsed)
    return name, parsed


COMMANDS = {
    "run": _run,
    "estimate": _estimate,
    "attribute": _attribute,
    "resume": _resume,
    "rebuild": _rebuild,
    "validate": _validate,
    "smoothness": _smoothness,
    "what-if": _what_if,
    "suspects": _suspects,
    "list": _list,
    "info": _info,
    "storage": _storage,
    "clean": _clean,
}

if __name__ == "__main__":
    sys.exit(main())

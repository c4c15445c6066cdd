"""Where a report comes from: settings, versions, machine, checksums, and the commands that make all of it again."""

import shlex
from dataclasses import dataclass

import engine
from engine import config_file
from engine.analysis import trust
from engine.analysis.wording import duration, percent, size
from engine.config import RunConfig
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.report.choice import IMAGES, Choice
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage
from engine.targets.names import canonical

UNKNOWN = "not recorded"

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Origin:
    """`recipe` is TOML, as `--config` reads it; `again` says what the commands below it do, or why there are none."""

    machine: Rows
    checksums: Rows
    recipe: str
    this: str  # the command that makes this report
    again: str
    commands: tuple[str, ...]
    made_by: str


def at_a_glance(record: Manifest, dataset: Dataset) -> Rows:
    """What a reader asks first."""
    method = record.method
    rows = [
        ("Data", dataset.title),
        ("Training images", f"{len(dataset.train_labels):,} in {len(dataset.classes):,} classes"),
        ("Scores", f"of {method}, made elsewhere") if method else ("Model", record.config.model),
        ("Seed", UNKNOWN if method else str(record.config.recipe.seed)),
        ("Test accuracy", UNKNOWN if record.test_accuracy is None else percent(record.test_accuracy)),
        ("Run made", f"{record.created[:16].replace('T', ' ')} {record.created[19:]}".strip() or UNKNOWN),
    ]
    return tuple(rows)


def of(run_id: str, record: Manifest, dataset: Dataset, refs: tuple[TargetRef, ...], choice: Choice) -> Origin:
    again, commands = _again(run_id, record, refs)
    return Origin(
        machine=_machine(record),
        checksums=_checksums(record, dataset, refs),
        recipe="" if record.method else recipe(record.config),
        this=this(run_id, record, refs, choice),
        again=again,
        commands=commands,
        made_by=f"Replay Explorer {engine.__version__}",
    )


def _machine(record: Manifest) -> Rows:
    exact = {True: "yes", False: "no", None: UNKNOWN}
    rows = [
        ("Run", record.run_id),
        ("Status", record.status),
        ("Written by", f"Replay Explorer {record.written_by}" if record.written_by else UNKNOWN),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()) or UNKNOWN),
        ("Device", record.device_name or record.device or UNKNOWN),
        ("Threads", UNKNOWN if record.threads is None else str(record.threads)),
        ("Precision", (record.precision or UNKNOWN) + (", TF32" if record.tf32 else "")),
        ("Compiled", exact[record.compiled]),
        ("Steps", UNKNOWN if record.steps is None else f"{record.steps:,}"),
        ("Parameters", UNKNOWN if record.parameters is None else f"{record.parameters:,}"),
        ("Training took", _took(record, "train_seconds")),
        ("Replay took", _took(record, "replay_seconds")),
        ("Memory at most", ", ".join(f"{name} {size(n)}" for name, n in record.peak_bytes.items()) or UNKNOWN),
    ]
    if record.driver:
        rows.insert(5, ("Driver", record.driver))
    return tuple(rows)


def _took(record: Manifest, name: str) -> str:
    seconds = record.timings.get(name)
    return UNKNOWN if seconds is None else duration(seconds)


def _checksums(record: Manifest, dataset: Dataset, refs: tuple[TargetRef, ...]) -> Rows:
    """SHA-256 of what the report was made from."""
    rows = [("Data (images and labels of both splits)", dataset.fingerprint)]
    if record.training_digest:
        rows.append(("Training (settings, data, order of the steps)", record.training_digest))
    kept = ["config.json", "model/train_logits.npy", "model/test_logits.npy"]
    kept += [f"scores/{name}.npy" for name in dict.fromkeys(ref.score_set for ref in refs)]
    rows += [(path, record.files[path]) for path in kept if path in record.files]
    return tuple(rows)


def recipe(config: RunConfig) -> str:
    """The configuration as TOML without comments, which `--config` reads as the same value; or why there is none."""
    try:
        lines = config_file.dumps(config).splitlines()
    except ConfigError as error:
        return f"# {error.what}"
    kept = [line.partition("  # ")[0] if line.startswith("[") else line for line in lines if line[:1] not in ("#", "")]
    return "\n".join(f"\n{line}" if line.startswith("[") and line[1:2].isalpha() else line for line in kept)


# -- commands


def this(run_id: str, record: Manifest, refs: tuple[TargetRef, ...], choice: Choice) -> str:
    """The command that makes this very report."""
    words = ["report", run_id]
    if len(refs) < len(record.score_sets.targets()):
        words += ["--targets", ",".join(ref.key for ref in refs)]
    words += ["--images", str(choice.images)] if choice.images != IMAGES else []
    words += ["--notes"] if choice.notes else []
    return command(*words, "--out", f"{run_id}.html")


def command(*words: str) -> str:
    return f"python -m engine {shlex.join(words)}"


def _again(run_id: str, record: Manifest, refs: tuple[TargetRef, ...]) -> tuple[str, tuple[str, ...]]:
    """Training, scores and checks once more, on this data; where that cannot be done from here, why."""
    if method := record.method:
        return f"The scores were made by {method}, and are made again there; their checksum is below.", ()
    if record.from_python or record.config.dataset.startswith("saved:"):
        return (
            "What was trained or scored in Python is made again there: the settings below are what is recorded of it. "
            f"With its model, engine.load({run_id!r}, model) goes on from the run's folder.",
            (),
        )
    commands = [command("run", "--config", "run.toml")]
    for sidecar in record.score_sets.sidecars():
        commands += _attribute(record, sidecar)
    for report in trust.sound(record, trust.LDS)[0]:
        options = "--subsets", str(report["subsets"]), "--drop", f"{report['drop']:g}", "--seed", str(report["seed"])
        commands.append(command("validate", "RUN", *options))
    for report in trust.sound(record, trust.WHAT_IF)[0]:
        options = ["--leave-out", ",".join(map(str, report["left_out"]))] if report["left_out"] else []
        pairs = ",".join(f"{index}={label}" for index, label in report["relabelled"].items())
        commands.append(command("what-if", "RUN", *options, *(["--relabel", pairs] if pairs else [])))
    words = (
        "Save the settings below as run.toml; the first command prints the new run's id, which stands for RUN in the "
        "others. On the same device and versions the scores are the same bit for bit."
    )
    if any(isinstance(ref.target, UploadedImage) for ref in refs):
        words += " Uploaded images are explained again in the app."
    return words, tuple(dict.fromkeys(commands))


def _attribute(record: Manifest, sidecar: dict) -> list[str]:
    """The command for targets that the run's own settings do not ask for."""
    function, config = sidecar["target_function"], record.config
    names = [str(canonical(target["name"])) for target in sidecar["targets"]]
    if function == config.target_function and set(names) <= {canonical(name) for name in config.targets}:
        return []
    names = [name for name in names if not name.startswith("image:")]
    if not names:
        return []
    options = [] if function == "loss" else ["--function", function]
    return [command("attribute", "RUN", "--targets", ",".join(names), *options)]

"""What the command line understands: its commands, their options, and the values that options may have.

Options that are numbers are read here, once: whatever is not written as such a number ends with exit code 2 and a
sentence, before anything is looked up or loaded.
"""

import argparse
import math
import re
from collections.abc import Callable

from engine import config
from engine.analysis import duplicates as duplicate_images
from engine.analysis import maps
from engine.analysis import removal as removals
from engine.analysis import themes as theme_finding
from engine.analysis.overlap import PROPOSED as PROPOSED_TOP
from engine.analysis.self_influence import FORMS, MOST_TOGETHER
from engine.analysis.trust import DECISIVE, PROPOSED
from engine.datasets.base import SPLITS
from engine.export.material import ALL
from engine.export.write import FORMATS
from engine.report.choice import IMAGES, MOST_IMAGES
from engine.runs import storage
from engine.targets import FAMILIES, FUNCTIONS, split_targets
from engine.targets.functions import SIGNS, examples

EPILOG = """examples:
  python -m engine run --preset sample --targets test:0,test:1
  python -m engine run --preset sample --set recipe.epochs=4 --set target_function=margin
  python -m engine run --data folder:photos
  python -m engine config --data folder:photos > mine.toml
  python -m engine probe --data folder:photos
  python -m engine data folder:photos
  python -m engine run --preset sample --model net.py:build --set model_options=depth=3
  python -m engine config --preset sample > mine.toml; python -m engine run --config mine.toml
  python -m engine estimate --preset resnet9 --set recipe.epochs=20
  python -m engine attribute RUN --targets class:6,test:all --function margin
  python -m engine attribute RUN --targets "confusion:coat>shirt" --function "difference:shirt>coat"
  python -m engine resume RUN
  python -m engine rebuild RUN --mode recompute
  python -m engine validate RUN --subsets 50 --drop 0.01,0.05
  torchrun --nproc-per-node=4 -m engine attribute RUN --targets test:0-999
  python -m engine attribute RUN --targets test:0-999 --shard 2/8; python -m engine merge RUN
  python -m engine smoothness RUN
  python -m engine what-if RUN --leave-out 17,4711 --relabel 23=6
  python -m engine removal RUN --target test:3 --random 4 --csv removal.csv
  python -m engine themes RUN --target test:3 --csv themes.csv
  python -m engine suspects RUN --csv suspects.csv
  python -m engine corrections RUN --copy-to photos-corrected --dry-run
  python -m engine corrections RUN --train
  python -m engine repeat RUN --seeds 4
  python -m engine mean RUN --target test:0.loss --csv mean.csv
  python -m engine compare --find "sample adamw" --csv runs.csv
  python -m engine compare RUN RUN RUN --target test:0.loss --top 50
  python -m engine self-influence RUN --images loss:500
  python -m engine self-influence RUN --images all --together 64 --csv memorised.csv
  python -m engine features RUN
  python -m engine report RUN --out report.html --pdf report.pdf
  python -m engine report RUN --targets test:3,class:coat --images 20 --out coat.html
  python -m engine duplicates RUN --by hash --out duplicates.csv
  python -m engine export RUN --format parquet --out scores.parquet
  python -m engine export RUN --format fiftyone --out for-fiftyone --targets test:3
  python -m engine list
  python -m engine info RUN
  python -m engine clean RUN --parts trajectory --dry-run
  python -m engine storage
  python -m engine show --scores trak.npy --train photos/train --test photos/test --method TRAK --sign help
  python -m engine app

targets: test:INDEX (one test image), class:CLASS (all test images of a class), test:all,
confusion:A>B (the test images of class A that the model takes for B), train:INDEX (a training
image's own loss). Ranges: test:0-9. Classes by number or name, "quoted" where a name holds , or >.
functions: loss, margin, logit (of the label), logit:CLASS, difference:A>B (why A and not B).
Runs live in --outputs, else in REPLAY_OUTPUTS_DIR, else in ./outputs. With REPLAY_READ_ONLY=1 they
are shown, and nothing is started, deleted or written. `COMMAND --help` says more of each.
Scores are outputs/RUN/scores/*.npy, float32 [targets, training images];
the .json beside each names targets, target function, sign and unit.

exit codes: 0 done, 1 the run failed, 2 the call or its settings are wrong, 3 no such run,
130 interrupted from the keyboard, 141 nobody reads the output any more."""

# -- values


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Reads a whole number from `low` to `high`, written in the digits 0 to 9."""

    def read(text: str) -> int:
        limit = "" if high is None else f" to {high:,}"
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number; write one from {low}{limit}")
        number = int(text)
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be from {low}{limit}{'' if limit else ' on'}, not {number}")
        return number

    return read


def fractions(text: str) -> tuple[float, ...]:
    """Reads fractions of the training images, between 0 and 1, separated by commas."""
    values = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise argparse.ArgumentTypeError(
                f"{part!r} is no fraction between 0 and 1; write one or more, such as 0.01,0.05 for 1 % and 5 %"
            )
        values.append(value)
    return tuple(values)


def names(text: str) -> tuple[str, ...]:
    """Reads one or more names, separated by commas."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise argparse.ArgumentTypeError("is empty; name one or more, separated by commas")
    return parts


def targets(text: str) -> tuple[str, ...]:
    """Reads one or more targets, separated by commas outside quotes. What each asks for is read with the data set."""
    parts = split_targets(text)
    if not parts:
        raise argparse.ArgumentTypeError("is empty; name one or more, separated by commas")
    return parts


def shard(text: str) -> tuple[int, int]:
    """Reads I/N, the I-th of N shards, counted from 1."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; write I/N, such as 2/8, counted from 1")
    return int(match[1]), int(match[2])


def function(text: str) -> str:
    """Reads a target function. The classes that it names are read with the data set."""
    head, colon, classes = text.partition(":")
    if not (classes and head in FAMILIES if colon else head in FUNCTIONS):
        raise argparse.ArgumentTypeError(f"{text!r} is no target function; choose one of {', '.join(examples())}")
    return text


def window(text: str) -> float:
    """Reads a fraction of the steps, or a number of them."""
    try:
        value = float(text)
    except ValueError:
        what = "write a fraction of the steps, such as 0.5, or from 1 on a number of steps"
        raise argparse.ArgumentTypeError(f"{text!r} is no number; {what}") from None
    if (problem := config.window_problem(value)) is not None:
        raise argparse.ArgumentTypeError(problem)
    return value


def indices(text: str) -> tuple[int, ...]:
    """Reads the numbers of training images, separated by commas; none where the text is empty."""
    return tuple(whole(0)(part) for part in text.split(",") if part.strip())


def labels(text: str) -> dict[int, int]:
    """Reads pairs I=C of a training image and its other label, both by number."""
    pairs = {}
    for part in text.split(","):
        if not part.strip():
            continue
        index, equals, label = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{part!r} is no pair of an image and its label; write it like 15=9")
        index = whole(0)(index)
        if index in pairs:
            raise argparse.ArgumentTypeError(f"image {index} has two labels; write each image once")
        pairs[index] = whole(0)(label)
    return pairs


# -- commands


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m engine`. Each command names itself in `command`."""
    top = argparse.ArgumentParser(
        prog="python -m engine",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train an image classifier, then replay its training backwards to score every "
        "training image for each target.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--outputs", metavar="DIR", help="folder of all runs")
    common.add_argument(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="debug shows every event of the work and the traceback of an error (warning)",
    )
    one_run = argparse.ArgumentParser(add_help=False, parents=[common])
    one_run.add_argument("run", metavar="RUN")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_configured(commands, common)
    _add_data(commands, common)
    _add_trained(commands, one_run)
    _add_checks(commands, one_run)
    _add_seeds(commands, one_run)
    _add_report(commands, one_run)
    _add_compare(commands, common)
    _add_export(commands, one_run)
    _add_house_keeping(commands, common, one_run)
    _add_show(commands, common)
    app = commands.add_parser("app", parents=[common], help="start the app in a browser")
    app.add_argument("--port", type=whole(1, 65535), metavar="N", help="of http://localhost (8501 where it is free)")
    return top


def _add_configured(commands, common: argparse.ArgumentParser) -> None:
    """What begins with a preset, or with a file."""
    settings = argparse.ArgumentParser(add_help=False, parents=[common])
    settings.add_argument(
        "--data",
        metavar="NAME",
        help="data set: its name, or folder:DIR, table:FILE, arrays:FILE.npz, torchvision:NAME, hf:NAME_OR_DIR",
    )
    settings.add_argument(
        "--model",
        metavar="MODEL",
        help=f"network: {', '.join(config.MODELS)}, timm:NAME, FILE.py:FUNCTION or package.module:FUNCTION",
    )
    settings.add_argument("--targets", type=targets, metavar="T,T,…", help="targets, such as test:0-9,class:coat")
    settings.add_argument(
        "--function", type=function, metavar="F", help="target function, such as margin or logit:coat (loss)"
    )
    settings.add_argument("--mode", choices=config.REPLAY_MODES, help="where the trajectory is kept")
    settings.add_argument(
        "--window",
        type=window,
        metavar="W",
        help="where example weights begin to count: a fraction of the steps, such as 0.5, or from 1 on a number of "
        "steps (0, the whole training; docs/window.md)",
    )
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="change one setting of what it starts from; may be repeated",
    )
    for name, text in (
        ("run", "train, replay, print where the scores are"),
        ("estimate", "memory, disk and time of each replay mode, from a short measurement"),
        (
            "probe",
            "whether the recipe trains smoothly, so that scores can be trusted: four trainings of half its steps",
        ),
        ("config", "print what would be run as a TOML file, every setting with what it is"),
    ):
        command = commands.add_parser(
            name,
            parents=[settings],
            help=text,
            epilog=_settings(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        start = command.add_mutually_exclusive_group()
        start.add_argument(
            "--preset",
            help=f"start from one of {', '.join(config.PRESETS)} (sample; of other data that --data names, a recipe "
            "proposed from its size)",
        )
        start.add_argument(
            "--config", metavar="FILE", help="start from a TOML file, as the command config and the form write it"
        )
        if name == "probe":
            command.add_argument("--again", action="store_true", help="measure, also where that was done before")
        if name == "config":
            start.add_argument("--run", metavar="RUN", help="start from the settings of a run")


def _add_data(commands, common: argparse.ArgumentParser) -> None:
    data = commands.add_parser("data", parents=[common], help="prepare a data set, and say what is in it")
    data.add_argument("data", metavar="NAME", help="as for run --data; docs/data.md lists kinds and options")
    data.add_argument("--delete", action="store_true", help="delete what was prepared for it; its own files stay")


def _settings() -> str:
    lines = ["settings for --set:"]
    lines += [f"  {name:24}{r.low:g} to {r.high:g}. {r.what}" for name, r in config.RANGES.items()]
    lines += [f"  {name:24}{', '.join(choice.names)}. {choice.what}" for name, choice in config.CHOICES.items()]
    lines += [f"  {name:24}{text.what}" for name, text in config.TEXTS.items()]
    lines += [f"  {name:24}true, false. {what}" for name, what in config.FLAGS.items()]
    lines += [f"  {name:24}{n.form}. {n.what}" for name, n in config.LISTS.items()]
    return "\n".join(lines)


def _add_trained(commands, one_run: argparse.ArgumentParser) -> None:
    """What goes on from a run's training."""
    attribute = commands.add_parser(
        "attribute", parents=[one_run], help="score further targets of a trained run, without training"
    )
    attribute.add_argument("--targets", type=targets, required=True, metavar="T,T,…")
    attribute.add_argument(
        "--function",
        type=function,
        metavar="F",
        default="loss",
        help="target function, such as margin or logit:coat (loss)",
    )
    _add_mode(attribute)
    _add_shard(attribute)
    resume = commands.add_parser(
        "resume", parents=[one_run], help="go on with a run that was killed, cancelled or failed"
    )
    resume.add_argument(
        "--discard", type=whole(0), metavar="N", help="do nothing, and take unfinished job N, from 0, off the list"
    )
    resume.add_argument(
        "--only", type=whole(0), metavar="N", help="do unfinished job N, from 0, and leave the others as they are"
    )
    rebuild = commands.add_parser(
        "rebuild",
        parents=[one_run],
        help="train once more, to make deleted or damaged checkpoints again, or those of another mode",
    )
    rebuild.add_argument("--mode", choices=config.REPLAY_MODES[1:], default="disk", help="(disk)")


def _add_checks(commands, one_run: argparse.ArgumentParser) -> None:
    """What compares scores with retraining, and what they are used for."""
    seed = whole(0, 2**31 - 1)
    validate = commands.add_parser(
        "validate",
        parents=[one_run],
        help="train again without random subsets, and compare what happens with what the scores say",
    )
    validate.add_argument(
        "--subsets",
        type=whole(1),
        default=PROPOSED,
        metavar="M",
        help=f"retrainings a fraction ({PROPOSED}); {DECISIVE} decide the verdict",
    )
    validate.add_argument(
        "--drop", type=fractions, default=(0.01,), metavar="F,F", help="fractions to leave out (0.01)"
    )
    validate.add_argument("--seed", type=seed, default=0, metavar="N", help="of the subsets (0)")
    _add_shard(validate)
    commands.add_parser("merge", parents=[one_run], help="put together what shards of attribute and validate have done")
    smoothness = commands.add_parser(
        "smoothness", parents=[one_run], help="how straight the training's answer to changed weights is"
    )
    smoothness.add_argument(
        "--directions", type=whole(1), default=2, metavar="D", help="random directions, two trainings each (2)"
    )
    smoothness.add_argument("--seed", type=seed, default=0, metavar="N", help="of the directions (0)")
    smoothness.add_argument(
        "--curvature",
        type=whole(1),
        nargs="?",
        const=12,
        metavar="S",
        help="where in time it breaks, in place of that: the largest curvature × rate at S steps (12)",
    )
    what_if = commands.add_parser(
        "what-if",
        parents=[one_run],
        help="train again without some images, or with other labels, beside what the scores predict",
    )
    what_if.add_argument("--leave-out", type=indices, default=(), metavar="I,I", help="training images, by number")
    what_if.add_argument(
        "--relabel",
        type=labels,
        default={},
        metavar="I=C,I=C",
        help="training images and their other labels, by number",
    )
    _add_removal(commands, one_run)
    _add_themes(commands, one_run)
    suspects = commands.add_parser(
        "suspects", parents=[one_run], help="training images by how much speaks against their label"
    )
    suspects.add_argument("--target", metavar="KEY", help="by which target (test:all where it was scored)")
    suspects.add_argument(
        "--by",
        choices=("loss", "harm", "self-influence"),
        help="the order: the trained model's loss on the label given, harm to the target, or self-influence where that "
        "was computed (loss, unless the data set's errors are known and harm finds more)",
    )
    suspects.add_argument("--count", type=whole(0), default=20, metavar="K", help="how many to print (20)")
    suspects.add_argument("--csv", metavar="FILE", help="write all of them")
    _add_corrections(commands, one_run)
    _add_self_influence(commands, one_run)
    commands.add_parser(
        "features",
        parents=[one_run],
        help="compute what the last layer of the trained model sees of each image, for maps, themes and duplicates",
    )
    umap = commands.add_parser("umap", parents=[one_run], help="draw a map of the training images with UMAP (an extra)")
    umap.add_argument("--source", choices=maps.SOURCES, default="features", help="what is near each other (features)")
    _add_duplicates(commands, one_run)


def _add_corrections(commands, one_run: argparse.ArgumentParser) -> None:
    corrections = commands.add_parser(
        "corrections",
        parents=[one_run],
        help="what was decided on a run's labels: as a file, a folder, a data set or a run",
        description="Without an option: prints them. They are decided on in the app (Triage), or read from a file.",
    )
    do = corrections.add_mutually_exclusive_group()
    do.add_argument("--csv", metavar="FILE", help="write them as labels.csv")
    do.add_argument("--read", metavar="FILE", help="take those of a labels.csv, each line checked")
    do.add_argument(
        "--copy-to", metavar="DIR", help="copy the run's folder of images with them to a folder that is not there yet"
    )
    do.add_argument(
        "--apply",
        action="store_true",
        help="move the files in the folder itself: runs on it can then be neither shown nor replayed",
    )
    do.add_argument("--dataset", action="store_true", help="make corrected:NAME, and print it: for run --data")
    do.add_argument("--train", action="store_true", help="train the run again with them, beside it")
    corrections.add_argument(
        "--dry-run",
        action="store_true",
        help="with --read, --copy-to and --apply: say what would be done, file by file",
    )


def _add_self_influence(commands, one_run: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "self-influence",
        parents=[one_run],
        help="what each training image did to its own loss: the most memorised first",
        description="A target's replay an image, exactly; or, with --together, an estimate with its standard error. "
        "What a run knows already is not computed again.",
    )
    command.add_argument("--images", default="loss:500", metavar="WHICH", help=f"{FORMS} (loss:500)")
    command.add_argument(
        "--together",
        type=whole(1, MOST_TOGETHER),
        default=1,
        metavar="G",
        help="images a target: G times cheaper, and an estimate (1, which is exact)",
    )
    _add_mode(command)
    command.add_argument("--count", type=whole(0), default=20, metavar="K", help="how many to print (20)")
    command.add_argument("--csv", metavar="FILE", help="write all that the run knows")


def _add_duplicates(commands, one_run: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "duplicates",
        parents=[one_run],
        help="images that are the same, or nearly, within and between training and test",
        description="Exact copies are always found. docs/duplicates.md says what the distances mean.",
    )
    command.add_argument(
        "--by",
        choices=duplicate_images.WAYS,
        default=duplicate_images.HASH,
        help="the same pixels alone; a perceptual hash; the pixels, scaled down; or the model's features, which the "
        "command features computes first (hash)",
    )
    command.add_argument(
        "--at-most",
        type=float,
        metavar="D",
        help="the distance of two images that are alike: of hashes, bits of 64; else 1 − cosine (what was measured)",
    )
    command.add_argument(
        "--turned", action="store_true", help="images turned by a quarter, or mirrored, are alike, too (exact, hash)"
    )
    command.add_argument("--target", metavar="KEY", help="whose scores are summed over each group (the first)")
    command.add_argument("--count", type=whole(0), default=20, metavar="K", help="how many groups to print (20)")
    command.add_argument("--out", metavar="FILE.csv", help="write every image of every group")


def _add_removal(commands, one_run: argparse.ArgumentParser) -> None:
    removal = commands.add_parser(
        "removal",
        parents=[one_run],
        help="train again without a target's most helpful or harmful images, few and many, beside random ones",
    )
    removal.add_argument(
        "--target", required=True, metavar="KEY", help="that has scores, such as test:3 or test:3.margin"
    )
    removal.add_argument(
        "--share",
        type=fractions,
        default=removals.FRACTIONS,
        metavar="F,F",
        help="of the images, to leave out (0.001,0.01,0.05)",
    )
    removal.add_argument("--side", choices=removals.SIDES, help="one alone; both where it is not named")
    removal.add_argument(
        "--random",
        type=whole(0, removals.MOST),
        default=removals.DRAWS,
        metavar="D",
        help=f"random sets of each number ({removals.DRAWS})",
    )
    removal.add_argument("--seed", type=whole(0, 2**31 - 1), default=0, metavar="N", help="of the random sets (0)")
    removal.add_argument("--csv", metavar="FILE", help="write the curve")


def _add_themes(commands, one_run: argparse.ArgumentParser) -> None:
    themes = commands.add_parser(
        "themes",
        parents=[one_run],
        help="what the images that helped or harmed a target most have in common, group by group",
        description="Groups them by the model's features (python -m engine features RUN; by pixels where there are "
        "none) and by what they did to the run's targets (docs/themes.md).",
    )
    themes.add_argument(
        "--target", required=True, metavar="KEY", help="that has scores, such as test:3 or test:3.margin"
    )
    themes.add_argument(
        "--top",
        type=whole(2, theme_finding.MOST_IMAGES),
        default=theme_finding.TOP,
        metavar="N",
        help=f"images of a side that are grouped ({theme_finding.TOP})",
    )
    themes.add_argument(
        "--themes", type=whole(1, theme_finding.MOST_THEMES), metavar="K", help="themes of a side (as many as fit)"
    )
    themes.add_argument(
        "--leave-out", metavar="THEME", help="then train again without this one, such as harmful:1, beside its sum"
    )
    themes.add_argument("--csv", metavar="FILE", help="write every image with its theme")


def _add_seeds(commands, one_run: argparse.ArgumentParser) -> None:
    """What asks about any training of a recipe."""
    repeat = commands.add_parser(
        "repeat", parents=[one_run], help="train the same recipe with other seeds, and score and validate alike"
    )
    repeat.add_argument(
        "--seeds", type=whole(2), default=4, metavar="S", help="trainings in all, the run's own among them (4)"
    )
    repeat.add_argument("--no-validation", action="store_true", help="do not validate the others, where the run was")
    mean = commands.add_parser(
        "mean", parents=[one_run], help="scores averaged over trainings that differ in their seed, with their spread"
    )
    mean.add_argument(
        "--with", type=names, metavar="RUN,RUN", dest="others", help="the other trainings (all that there are)"
    )
    mean.add_argument("--target", metavar="KEY", help="of which target, such as test:0.loss (the first)")
    mean.add_argument("--count", type=whole(0), default=20, metavar="K", help="how many images to print (20)")
    mean.add_argument("--csv", metavar="FILE", help="write all of them")


def _add_report(commands, one_run: argparse.ArgumentParser) -> None:
    report = commands.add_parser(
        "report",
        parents=[one_run],
        help="one file of HTML to be mailed: pictures, numbers in words, how far to rely on them",
        description="The file needs nothing else and asks nothing of any server. The same run gives the same bytes.",
    )
    report.add_argument("--out", required=True, metavar="FILE.html", help="the file to write")
    report.add_argument(
        "--targets",
        type=targets,
        default=(),
        metavar="T,T,…",
        help="that have scores, such as test:3 or test:0-9.margin (all of the run)",
    )
    report.add_argument(
        "--images",
        type=whole(1, MOST_IMAGES),
        default=IMAGES,
        metavar="K",
        help=f"training images of each side of a target ({IMAGES})",
    )
    report.add_argument("--notes", action="store_true", help="with notes and ticks, which are private otherwise")
    report.add_argument("--pdf", metavar="FILE.pdf", help="print it, too; takes chromium")
    report.add_argument("--force", action="store_true", help="write over files that are there")


def _add_export(commands, one_run: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export",
        parents=[one_run],
        help="write a run's images, labels and scores for other programs",
        epilog="\n".join(["formats:", *(f"  {name:14}{each.says}" for name, each in FORMATS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--format", required=True, choices=list(FORMATS), help="what is written; see below")
    export.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a file (parquet, csv) or a folder that is not there yet; a folder whose name ends in .zip becomes a zip",
    )
    export.add_argument(
        "--targets",
        type=targets,
        default=(),
        metavar="T,T,…",
        help="whose scores, such as test:3 or test:3.margin (all that there are)",
    )
    export.add_argument("--split", choices=(ALL, *SPLITS), default=ALL, help="(all)")
    export.add_argument(
        "--pixels",
        action="store_true",
        help="images as PNG of the pixels that the model saw, in place of the files that they were made of",
    )


def _add_show(commands, common: argparse.ArgumentParser) -> None:
    """What shows scores that another program made; what is wrong with a value is said by `engine.library.showing`."""
    show = commands.add_parser(
        "show",
        parents=[common],
        help="show scores of another program: a matrix [targets, training images], and the images",
        description="Makes a run of scores that another program made (TRAK, kronfluence, dattri, captum), and shows it "
        "in the app. docs/viewer.md has five lines for each.",
    )
    data = "a data set's name, or a folder of class folders"
    show.add_argument(
        "--scores",
        required=True,
        metavar="FILE",
        help=".npy, .npz, .safetensors, .pt, .csv or .parquet; FILE:NAME of one array among several",
    )
    show.add_argument("--train", required=True, metavar="DATA", help=f"{data}, in the order of the scores")
    show.add_argument("--test", metavar="DATA", help="likewise; the test images of --train where it is left out")
    show.add_argument("--method", required=True, metavar="NAME", help="who made the scores, such as TRAK")
    show.add_argument(
        "--sign",
        required=True,
        choices=tuple(SIGNS),
        help="what a positive score means: the image helped the target, or it harmed it",
    )
    show.add_argument("--unit", default="", metavar="UNIT", help="of the scores; none is claimed without")
    show.add_argument(
        "--targets", metavar="WHICH", help="test images, 0-99 or 0,5,9, targets such as class:2, or a file (all)"
    )
    show.add_argument("--order", choices=("targets", "training"), help="what the rows are, where sizes leave it open")
    for split in ("train", "test"):
        show.add_argument(f"--{split}-logits", metavar="FILE", help=f"the model's, [{split} images, classes]")
    show.add_argument("--classes", type=names, metavar="C,C", help="names in the order of the labels")
    show.add_argument("--title", default="", metavar="TEXT", help="of the data")
    show.add_argument("--name", default="", metavar="TEXT", help="of the run")
    show.add_argument("--note", default="", metavar="TEXT", help="that is kept with the run")
    show.add_argument(
        "--no-open", dest="open", action="store_false", help="make the run alone: no app is started, nothing opened"
    )


def _add_compare(commands, common: argparse.ArgumentParser) -> None:
    """What shows many runs side by side."""
    compare = commands.add_parser(
        "compare", parents=[common], help="any number of runs in one table, and the images that matter in all of them"
    )
    compare.add_argument("runs", metavar="RUN", nargs="*", help="which (all that there are)")
    compare.add_argument("--find", default="", metavar="WORDS", help="only those whose name, data or recipe say so")
    compare.add_argument("--single", action="store_true", help="a row for each run: do not fold seeds into one")
    compare.add_argument("--csv", metavar="FILE", help="write the table, a row a run, with every setting that differs")
    compare.add_argument(
        "--target", metavar="KEY", help="hold the lists of this target, such as test:0.loss, against each other"
    )
    compare.add_argument(
        "--top", type=whole(1, 10_000), default=PROPOSED_TOP, metavar="K", help=f"images of a list ({PROPOSED_TOP})"
    )
    compare.add_argument("--images-csv", metavar="FILE", help="with --target: write every image and its counts")


def _add_mode(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--mode",
        choices=config.REPLAY_MODES,
        help="another replay mode than that of the trajectory on disk; trains again where it must",
    )


def _add_shard(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="do one of N parts, and leave it for merge: for arrays of jobs on a cluster (docs/clusters.md)",
    )


def _add_house_keeping(commands, common: argparse.ArgumentParser, one_run: argparse.ArgumentParser) -> None:
    """What shows and deletes runs."""
    commands.add_parser("list", parents=[common], help="every run with status, size and accuracy")
    commands.add_parser("info", parents=[one_run], help="one run as JSON")
    commands.add_parser("storage", parents=[common], help="what fills the disk, by run and part")
    clean = commands.add_parser("clean", parents=[common], help="delete parts of runs, or whole runs")
    clean.add_argument("runs", metavar="RUN", nargs="+")
    part = clean.add_mutually_exclusive_group(required=True)
    part.add_argument("--parts", type=names, metavar="P,P", help=f"of {', '.join(storage.CLEANABLE)}")
    part.add_argument("--all", action="store_true", help="the whole run")
    clean.add_argument("--dry-run", action="store_true", help="say the bytes, delete nothing")

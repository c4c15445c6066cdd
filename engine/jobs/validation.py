"""The jobs that check scores by training again: validation, what-ifs, smoothness.

Each is given the work on a run (`engine.work`), whose run is trained, and leaves its report in
`validation/` (`engine.trust`). A retraining's test logits are kept whole or not at all, under the
checksum of what was left out: a job that was killed goes on with those that are missing.
"""

import math
import time
from dataclasses import asdict, replace

import numpy as np
import torch

from engine import files
from engine.analysis import lds, trust
from engine.analysis import what_if as what_ifs
from engine.core import retraining
from engine.core import targets as phi
from engine.core.schedule import plan_for
from engine.core.state import State
from engine.core.stream import Stream
from engine.errors import ConfigError, DivergedError, IntegrityError
from engine.targets import Target, UploadedImage, target_function
from engine.trajectory.state_files import read_state, write_state

REPORT_BYTES = 1 << 20  # more than a report takes

REPEATS = 4  # retrainings of the run's own weights, where the arithmetic may differ


def validate(work) -> list[str]:
    """Retrains without each of the job's subsets; one report a fraction left out and target function."""
    run, options, dataset = work.run, work.job.options, work.dataset
    drops, subsets, seed = tuple(options["drops"]), options["subsets"], options["seed"]
    n = len(dataset.train_labels)
    lds.check_plan(subsets, drops, seed, n)
    scored = _scored(run)
    if own := [t.name for t in run.targets() if isinstance(t.target, UploadedImage)]:
        work.event(
            "note",
            text=f"Retraining is judged on test images alone, so these targets are not validated: {', '.join(own)}.",
        )
    width = retraining.side_by_side(work.model, work.stream)
    repeats = 1 if width == 1 and work.device.type == "cpu" else REPEATS
    rows = {f"all-{width}-{r}": np.empty(0, np.int64) for r in range(repeats)}
    keys = {drop: [f"{drop:g}-{seed}-{m}" for m in range(subsets)] for drop in drops}
    for drop in drops:
        rows |= {key: lds.subset(n, drop, seed, m) for m, key in enumerate(keys[drop])}
    plan = plan_for(work.config.recipe, n)
    for key, left_out in rows.items():
        lds.check_left_out(left_out, dataset.train_labels, plan, f"Subset {key}")
    began = time.monotonic()
    logits = _retrained(work, rows, width)
    seconds = time.monotonic() - began
    names = []
    for drop in drops:
        left_out = [rows[key] for key in keys[drop]]
        for function, targets in scored.items():
            name = f"lds-{function}-{drop:g}-{seed}"
            report = _report(
                work,
                function,
                targets,
                left_out,
                [logits[key] for key in keys[drop]],
                [logits[key] for key in rows if key.startswith("all-")],
            )
            _write(
                work,
                name,
                {
                    "kind": "lds",
                    "function": function,
                    "unit": target_function(function).short_unit,
                    "drop": drop,
                    "left_out": len(left_out[0]),
                    "subsets": subsets,
                    "seed": seed,
                    "side_by_side": width,
                    "device_name": run.manifest["device_name"],
                    "retraining_seconds": round(seconds, 1),
                    **report,
                },
            )
            names.append(name)
            work.event(
                "note",
                text=f"Wrote validation/{name}.json: rank correlation with {subsets} retrainings "
                f"{report['lds_mean']:.3f}, mean of {len(targets)} targets (95 % interval "
                f"{report['lds_mean_low']:.3f} to {report['lds_mean_high']:.3f}).",
            )
    return names


def what_if(work) -> str:
    """Retrains without the job's images and with its labels; prediction and truth for every target."""
    run, options, dataset = work.run, work.job.options, work.dataset
    left_out, relabelled = what_ifs.check_changes(
        options["left_out"], {int(i): c for i, c in options["relabelled"].items()}, dataset
    )
    labels = dataset.train_labels.copy()
    for index, label in relabelled.items():
        labels[index] = label
    lds.check_left_out(left_out, labels, plan_for(work.config.recipe, len(labels)), "This choice")
    relabelled_data = replace(work.examples, labels=torch.from_numpy(labels).to(work.device))
    stream = replace(work.stream, data=relabelled_data)
    predicted = what_ifs.predict(run, dataset, left_out)
    key = "what-if-" + files.json_digest([left_out.tolist(), sorted(relabelled.items())])[:16]
    logits = _retrained(work, {key: left_out}, 1, stream)[key]
    rows = []
    for target in predicted:
        asked = Target.parse(target.name)
        indices = asked.resolve(dataset.test_labels, len(dataset.classes))
        own = isinstance(asked, UploadedImage)
        actual = None if own else what_ifs.values(logits[indices], dataset.test_labels[indices])
        if relabelled:  # the scores say nothing of a label's change
            target = replace(target, change=None, predicted=None)
        rows.append(asdict(replace(target, actual=actual)))
    accuracy = float((logits.argmax(1) == dataset.test_labels).mean())
    name = f"what-if-{len(trust.what_ifs(run)):03d}"
    _write(
        work,
        name,
        {
            "kind": "what-if",
            "left_out": left_out.tolist(),
            "relabelled": {str(i): c for i, c in relabelled.items()},
            "targets": rows,
            "test_accuracy": accuracy,
            "test_accuracy_before": run.manifest["test_accuracy"],
        },
    )
    work.event(
        "note",
        text=f"Wrote validation/{name}.json: retrained without {len(left_out):,} images"
        + (f" and with {len(relabelled):,} other labels" if relabelled else "")
        + f"; test accuracy {accuracy:.1%}.",
    )
    return name


def smoothness(work) -> str:
    """Metasmoothness along the job's number of random weight directions."""
    directions, seed = work.job.options["directions"], work.job.options["seed"]
    if not 1 <= directions <= 64:
        raise ConfigError(f"Smoothness takes from 1 to 64 directions, not {directions}.", "Choose 2.")
    meter = work.meter("retrain", 2 * directions * work.steps)
    found, first = [], work.final  # of the very training that w = 1 would repeat

    def trained(weights: torch.Tensor) -> State:
        nonlocal done
        (state,) = retraining.retrain(work.model, work.stream, weights[None].to(work.device, work.dtype), before)
        done += work.steps
        return state

    def before(t: int) -> None:
        work.stop_if_cancelled(t)
        meter.report(done + t)

    done = 0
    for i in range(directions):
        v = retraining.NUDGE * retraining.direction(work.examples.n, seed + i)
        second, third = trained(1 + v), trained(1 + 2 * v)
        found.append(retraining.metasmoothness(first, second, third))
    _write(
        work,
        trust.SMOOTHNESS,
        {
            "kind": "smoothness",
            "nudge": retraining.NUDGE,
            "seed": seed,
            "directions": found,
            "mean": float(np.mean(found)),
        },
    )
    work.event("note", text=f"Metasmoothness {np.mean(found):.3f}, mean of {directions} directions.")
    return trust.SMOOTHNESS


# -- parts


def _scored(run) -> dict[str, list]:
    """The run's targets by target function; `IntegrityError` for scores of another training."""
    manifest, found = run.manifest, {}
    for sidecar in run.score_sets():
        if sidecar["training_digest"] != manifest["training_digest"]:
            raise IntegrityError(
                f"The scores {sidecar['name']} of run {run.id} belong to another training.",
                "Delete the scores and attribute the targets again.",
            )
    for target in run.targets():
        if not isinstance(target.target, UploadedImage):  # what is kept of a retraining is its logits on the test images
            found.setdefault(target.function, []).append(target)
    if not found:
        raise ConfigError(f"Run {run.id} has no scores to validate.", "Attribute some test images or classes first.")
    return found


def _retrained(work, rows: dict[str, np.ndarray], width: int, stream: Stream | None = None) -> dict[str, np.ndarray]:
    """Test logits [N_test, C] by key; what is kept from before is read, the rest trained."""
    folder = work.run.path / "validation" / "retrained"
    folder.mkdir(exist_ok=True)
    kept, missing = {}, []
    for key, left_out in rows.items():
        found = _kept(work, folder, key, left_out)
        if found is None:
            missing.append(key)
        else:
            kept[key] = found
    if kept:
        work.event("note", text=f"{len(kept)} of {len(rows)} retrainings were done before.")
    groups = [missing[i : i + width] for i in range(0, len(missing), width)]
    meter = work.meter("retrain", len(groups) * work.steps)
    n = work.examples.n
    for g, group in enumerate(groups):

        def before(t: int) -> None:
            work.stop_if_cancelled(t)
            meter.report(g * work.steps + t)

        weights = torch.ones(len(group), n, dtype=work.dtype)
        for row, key in zip(weights, group, strict=True):
            row[torch.from_numpy(rows[key])] = 0
        try:
            states = retraining.retrain(work.model, stream or work.stream, weights.to(work.device), before)
        except DivergedError as error:
            raise DivergedError(
                f"Retraining {group[0]}" + (f" to {group[-1]}" if len(group) > 1 else "") + f" failed. {error.what}",
                "The run's training is close to diverging, and its scores are not to be relied on: lower "
                "the peak learning rate, or leave out fewer images.",
                error.step,
            ) from error
        for key, state in zip(group, states, strict=True):
            logits = phi.logits(work.model, state, work.test).float().cpu()
            work.room.write(
                logits.numel() * 4 + 1024,
                lambda: write_state(folder / f"{key}.safetensors", {"logits": logits}, _header(work, rows[key])),
            )
            kept[key] = logits.numpy()
    meter.report(len(groups) * work.steps)
    return kept


def _header(work, left_out: np.ndarray) -> dict[str, str]:
    return {"training": work.digest, "left_out": files.json_digest(left_out.tolist())}


def _kept(work, folder, key: str, left_out: np.ndarray) -> np.ndarray | None:
    path = folder / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        return read_state(path, _header(work, left_out), "")["logits"].numpy()
    except IntegrityError as error:
        work.event("note", text=f"{error.what} It is trained again.")
        return None


def _report(work, function: str, targets: list, left_out: list, logits: list, repeats: list) -> dict:
    run, dataset = work.run, work.dataset
    labels, classes = dataset.test_labels, len(dataset.classes)
    sets = [t.target.resolve(labels, classes) for t in targets]

    def values(model_logits: np.ndarray) -> np.ndarray:
        return np.array([target_function(function).from_logits(model_logits[s], labels[s]).mean() for s in sets])

    trained_K = values(run.test_logits())
    actual = np.stack([values(each) - trained_K for each in logits], axis=1)  # [K, M]
    noise = np.stack([values(each) - trained_K for each in repeats], axis=1)  # [K, R]
    files_of = {name: run.scores(name) for name in {t.score_set for t in targets}}
    scores = np.stack([files_of[t.score_set][t.row] for t in targets])
    predicted = lds.predicted(scores, left_out)
    each, mean = lds.agreement(predicted, actual)
    floor = np.sqrt((noise**2).mean(1))
    spread = actual.std(1)
    share = np.divide(floor**2, spread**2, out=np.zeros_like(floor), where=spread > 0)
    rows = [
        {
            "key": t.key,
            "name": t.name,
            "title": t.target.title(dataset),
            "value": float(v),
            **_numbers(asdict(a)),
            "noise": float(f),
            "noise_share": float(s),
            "predicted": p.tolist(),
            "actual": q.tolist(),
        }
        for t, v, a, f, s, p, q in zip(targets, trained_K, each, floor, share, predicted, actual, strict=True)
    ]
    return {
        **_numbers(
            {
                "lds_mean": mean.lds,
                "lds_mean_low": mean.low,
                "lds_mean_high": mean.high,
                "slope_mean": mean.slope,
                "r2_mean": mean.r2,
            }
        ),
        "repeats": noise.shape[1],
        "noise_share": float(share.mean()),
        "targets": rows,
    }


def _numbers(values: dict) -> dict:
    """For JSON, which knows no NaN: null where nothing varied."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def _write(work, name: str, report: dict) -> None:
    path = work.run.path / "validation" / f"{name}.json"
    report = {"schema": 1, "training_digest": work.digest, "data_fingerprint": work.dataset.fingerprint, **report}
    work.add_files({f"validation/{name}.json": work.room.write(REPORT_BYTES, lambda: files.write_json(path, report))})


JOBS = {"validate": validate, "what-if": what_if, "smoothness": smoothness}

"""Two runs that the version before 0.2.0 wrote (schema 2): they open, are listed, replay, resume and validate.

tests/fixtures/schema-2/ holds them as that version left them: `finished` in recompute mode with scores of both target
functions, reports and notes; `interrupted` as a kill at step 9 of 16 left it. Git keeps no empty folders, so those of
`interrupted` are missing, as after any copy by git, rsync or zip.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import device, files
from engine.__main__ import main
from engine.analysis import trust
from engine.errors import IntegrityError
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.job import JobRecord
from engine.runs.manifest import SCHEMA, Manifest, migrate_2_to_3

STORED = Path(__file__).parent / "fixtures" / "schema-2"


@pytest.fixture
def root(tmp_path) -> Path:
    root = runs.outputs_root(tmp_path / "outputs")
    for name in ("finished", "interrupted"):
        shutil.copytree(STORED / name, root / name)
    return root


@pytest.fixture
def finished(root) -> runs.Run:
    return runs.Run.open(root, "finished")


# Of the logits below on AMD EPYC processors whose AVX-512 is not to be seen, as in some virtual machines: they have the
# name of those that made the runs, and round otherwise. Whatever else differs is a fault.
WITHOUT_AVX512 = "9ea4a86c3f41b63b78b6d03dd3e4159406acf8510ee5668f53352f74cf42ae51"


def logits_here() -> str:
    """SHA-256 of what `finished` answers to its first test images, computed here."""
    import torch
    from safetensors.torch import load_file

    from engine.core import targets
    from engine.core.stream import examples
    from engine.datasets import registry as datasets
    from engine.models import registry as models

    path, cpu = STORED / "finished" / "manifest.json", torch.device("cpu")
    config = Manifest.from_json(json.loads(path.read_text()), path).config
    dataset = datasets.load(config.dataset)
    images, _ = examples(dataset, "test", cpu, torch.float32).batch(range(targets.CHUNK))
    state = load_file(STORED / "finished" / "model" / "state.safetensors")
    with device.threads(1), torch.no_grad():
        logits = models.build(config, dataset)(state["theta"], state["buffers"], images, training=False)[0]
    return hashlib.sha256(logits.numpy().tobytes()).hexdigest()


def execute(run: runs.Run, job=None):
    """Skipped on a machine that rounds otherwise: a run is reopened only by what computes the same."""
    from engine.jobs import execute as work

    record = run.manifest()
    try:
        with run.lock():
            return work.execute(run, job)
    except IntegrityError as error:
        assert "vector instructions, which the run does not record" in str(error) or "hardware" in error.remedy
        if record.device_name not in (None, device.describe()):
            pytest.skip(f"made on {record.device_name}, and this is {device.describe()}")
        if logits_here() == WITHOUT_AVX512:
            pytest.skip("made on a processor with AVX-512, and this one has none")
        raise


def test_the_stored_runs_are_of_schema_2():
    """Otherwise the tests below would say nothing."""
    for name in ("finished", "interrupted"):
        assert json.loads((STORED / name / "manifest.json").read_text())["schema"] == 2 != SCHEMA


def test_they_are_opened_and_listed_as_they_are(root, finished):
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    record = finished.manifest()
    assert record.status == "finished" and record.jobs == () and not record.resumable
    assert record.trained and record.kept_mode == "recompute" and record.trajectory.every == 3
    assert record.steps == 8 and record.test_accuracy == 0.409 and record.versions["torch"].startswith("2.")
    assert [t.key for t in record.score_sets.targets()] == [
        "test:0.loss",
        "class:2.loss",
        "test:1.margin",
        "test:all.margin",
    ]
    rows = record.score_sets.rows(record.score_sets.targets())
    assert all(row.shape == (6000,) and np.abs(row).max() > 0 for row in rows)
    assert record.test_logits().shape == (1000, 10) and record.train_logits().shape == (6000, 10)
    assert [r["subsets"] for r in trust.reports(record)] == [5, 5]
    assert trust.what_ifs(record)[0]["left_out"] == [3, 14] and trust.smoothness(record) is not None
    kept = notes.read(finished)
    assert kept.ticked == (3, 14) and kept.of(notes.RUN) == "Made by schema 2."
    listed = {s.id: s for s in runs.summaries(root)}
    assert listed["finished"].status == "finished" and listed["finished"].dataset == "fashion-mnist-sample"
    assert listed["interrupted"].status == "interrupted" and listed["interrupted"].resumable
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before, "looking changes nothing"


def test_the_unfinished_job_becomes_the_first_of_a_list(root):
    (job,) = runs.Run.open(root, "interrupted").manifest().jobs
    assert job == JobRecord("run", {"mode": "recompute", "targets": ["test:0"], "function": "loss"})


@pytest.mark.parametrize(
    "job, fields",
    [
        ({"kind": "rebuild", "mode": "disk", "targets": [], "function": "", "options": {}}, {"mode": "disk"}),
        (
            {"kind": "replay", "mode": "memory", "targets": ["test:3"], "function": "margin", "options": {}},
            {"mode": "memory", "targets": ["test:3"], "function": "margin"},
        ),
        (
            {"kind": "validate", "mode": "", "targets": [], "function": "", "options": {"subsets": 5, "drops": [0.1]}},
            {"subsets": 5, "drops": [0.1]},
        ),
        (
            {"kind": "replay", "mode": "disk", "targets": ["test:007", "test:7", "class:٣"], "function": "loss"},
            {"mode": "disk", "targets": ["test:7", "class:3"], "function": "loss"},
        ),
        (
            {"kind": "what-if", "options": {"left_out": [3], "relabelled": {"10": 2, "9": 1}}},
            {"left_out": [3], "relabelled": [[9, 1], [10, 2]]},
        ),
    ],
)
def test_jobs_of_every_kind_are_migrated_to_what_their_classes_read(job, fields):
    from engine.jobs.registry import from_record

    values = {"schema": 2, "run_id": "r", "status": "failed", "job": job, "files": {}}
    migrated = migrate_2_to_3(values)
    assert migrated == {
        "schema": 3,
        "run_id": "r",
        "status": "failed",
        "files": {},
        "jobs": [{"kind": job["kind"], **fields}],
    }
    record = JobRecord.from_json(migrated["jobs"][0])
    assert from_record(record).kind == job["kind"]
    assert values["job"] == job, "the value that was read is left as it is"


@pytest.mark.parametrize("drop", [float("nan"), float("inf")])
def test_a_job_that_asks_for_no_finite_number_is_shown_rewritten_and_discarded(finished, drop, capsys):
    """Version 0.1 recorded `validate --drop nan` before it looked at it."""
    path = finished.path / "manifest.json"
    values = {name: each for name, each in json.loads(path.read_text()).items() if name != "checksum"}
    values |= {"status": "failed", "job": {"kind": "validate", "options": {"subsets": 5, "drops": [drop]}}}
    path.write_text(json.dumps({**values, "checksum": files.json_digest(values)}))
    assert finished.manifest().jobs[0].fields["drops"] == [str(drop)] and finished.manifest().resumable
    finished.update_manifest(status_said="failed")
    assert json.loads(path.read_text())["schema"] == SCHEMA and finished.manifest().jobs[0].fields["drops"] == [
        str(drop)
    ]
    outputs = ["--outputs", str(finished.root)]
    assert main(["resume", finished.id, *outputs]) == 2
    assert f"«validate» has «['{drop}']» for its field drops" in capsys.readouterr().err
    assert main(["resume", finished.id, "--discard", "0", *outputs]) == 0 and finished.manifest().jobs == ()


@pytest.mark.slow
def test_a_finished_run_replays_another_target_and_its_own_with_the_same_bits(finished):
    from engine.jobs.replay import Replay

    name = execute(finished, Replay(("test:5",), "loss")).scores
    assert name == "loss-002" and np.abs(finished.scores().matrix(name)).max() > 0
    again = execute(finished, Replay(("test:0", "class:2"), "loss")).scores
    assert np.array_equal(finished.scores().matrix(again), finished.scores().matrix("loss-000"))
    assert json.loads((finished.path / "manifest.json").read_text())["schema"] == SCHEMA


@pytest.mark.slow
def test_it_is_validated_anew_with_the_numbers_of_before(finished):
    from engine.jobs.validation import Validate

    before = trust.reports(finished.manifest())
    execute(finished, Validate(5, (0.01,), 0))
    for old, new in zip(before, trust.reports(finished.manifest()), strict=True):
        # The same retrainings; margins have been computed from other formulas since, to more digits.
        assert new["lds_mean"] == old["lds_mean"]
        assert new["targets"][0]["actual"] == pytest.approx(old["targets"][0]["actual"], rel=1e-9)


@pytest.mark.slow
def test_the_interrupted_run_goes_on_where_it_was_killed(root):
    run = runs.Run.open(root, "interrupted")
    execute(run)
    record = run.manifest()
    assert record.status == "finished" and record.jobs == () and record.score_sets.targets()
    told = [e for e in run.events()[0] if e["kind"] == "phase" and e["phase"] == "train"]
    assert told[-1]["done"] >= 6, "not from the start"


def test_a_newer_schema_names_the_version_that_wrote_it(finished):
    path = finished.path / "manifest.json"
    files.write_json(path, {"schema": SCHEMA + 1, "written_by": "7.1.0", "status": "finished"})
    with pytest.raises(IntegrityError, match=r"written by version 7\.1\.0 \(schema 4\)") as error:
        finished.manifest()
    assert "Open the run with version 7.1.0" in error.value.remedy
    (summary,) = [s for s in runs.summaries(finished.root) if s.id == "finished"]
    assert summary.status == "damaged" and "7.1.0" in summary.remark


def test_what_is_written_is_read_again_as_the_same_value(finished):
    record = finished.update_manifest()
    assert Manifest.from_json(json.loads(json.dumps(record.to_json())), finished.path / "manifest.json") == record
    assert finished.manifest() == record and record.written_by == engine.__version__


@pytest.mark.parametrize(
    "field, value",
    [
        ("status", 3),
        ("run_id", None),
        ("files", {"../../other/manifest.json": "0" * 64}),
        ("files", {"/etc/passwd": "0" * 64}),
        ("files", {"config.json": "short"}),
        ("jobs", [{"mode": "disk"}]),
        ("jobs", {"kind": "run"}),
        ("timings", {"train_seconds": "long"}),
        ("trajectory", {"kept": 1}),
        ("trained", 1),
        ("steps", -1),
        ("parameters", 2**63),
        ("threads", 10**400),
        ("test_accuracy", 10**400),
        ("timings", {"train_seconds": float("nan")}),
        ("sizes", {"trajectory": -5}),
        ("jobs", [{"kind": "validate", "drops": [float("inf")]}]),
        ("unheard_of", 1),
    ],
)
def test_a_field_of_another_type_is_damage_whatever_its_checksum(finished, field, value):
    values = {k: v for k, v in finished.manifest().to_json().items() if k != "checksum"} | {field: value}
    text = json.dumps({**values, "checksum": files.json_digest(values)})
    (finished.path / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="is no manifest of a run"):
        finished.manifest()
    assert finished.status == "damaged"


@pytest.mark.parametrize(
    "name, path, value",
    [
        ("lds-loss-0.01-0", ("drop",), "half"),
        ("lds-loss-0.01-0", ("subsets",), -5),
        ("lds-loss-0.01-0", ("lds_mean",), []),
        ("lds-loss-0.01-0", ("targets", 0, "predicted"), [0.1]),
        ("lds-loss-0.01-0", ("targets", 0, "title"), None),
        ("what-if-000", ("left_out",), ["all"]),
        ("what-if-000", ("relabelled",), {"one": 2}),
        ("what-if-000", ("targets", 0, "before"), 3),
        ("smoothness", ("mean",), "smooth"),
    ],
    ids=str,
)
def test_a_report_of_another_hand_is_named_whatever_its_checksum(finished, name, path, value):
    file = finished.path / "validation" / f"{name}.json"
    report = json.loads(file.read_text())
    place = report
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    finished.add_files({f"validation/{name}.json": files.write_json(file, report)})
    record = finished.manifest()
    with pytest.raises(IntegrityError, match=rf"{name}\.json is no such report"):
        trust.reports(record), trust.what_ifs(record), trust.smoothness(record)

"""The command line as terminals and shells meet it: what is typed wrong, pipes that close, signals, encodings."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import arguments, commands
from engine.__main__ import main
from engine.runs import notes
from engine.runs import run as runs
from tests.helpers import ROOT

CALL = [sys.executable, "-m", "engine"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Of the processes that are started: what the person who runs the tests has set must not hide a fault."""
    for name in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONUTF8", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def engine(*call: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m engine …` in a process of its own."""
    return subprocess.run([*CALL, *call], cwd=ROOT, env={**os.environ, **environment}, capture_output=True)


# -- values


@pytest.mark.parametrize(
    "call",
    [
        *(
            ["validate", "RUN", "--drop", text]
            for text in ("1%", "nan", "inf", "-0.1", "0", "1", "", ",", "0.01,x", "1e9")
        ),
        *(["validate", "RUN", "--subsets", text] for text in ("0", "-5", "five", "nan", "", "1e3", "٣", "9" * 30)),
        *(["validate", "RUN", "--seed", text] for text in ("-1", "x", str(2**31))),
        *(["smoothness", "RUN", "--directions", text] for text in ("0", "-1", "2.5", "inf")),
        ["smoothness", "RUN", "--seed", "-1"],
        *(["resume", "RUN", "--discard", text] for text in ("-1", "one", "")),
        *(["suspects", "RUN", "--count", text] for text in ("-1", "many", "1.0")),
        *(["attribute", "RUN", "--targets", text] for text in ("", ",", " , ")),
        *(["run", "--targets", text] for text in ("", ",")),
        *(["what-if", "RUN", "--leave-out", text] for text in ("x", "-1", "1;2", "1.0")),
        *(["what-if", "RUN", "--relabel", text] for text in ("3", "3=", "=3", "3=x", "3=-1", "3=1,3=2")),
        *(["clean", "RUN", "--parts", text] for text in ("", ",")),
        *(["app", "--port", text] for text in ("0", "65536", "http")),
        ["clean", "RUN"],
        ["attribute", "RUN"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_what_is_no_value_of_an_option_ends_with_2_and_a_sentence(call, capsys):
    with pytest.raises(SystemExit) as end:
        main(call)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and "invalid" not in last.split("choose from")[0].replace("invalid choice", "")


@pytest.mark.parametrize(
    "value",
    ["nan", "inf", "-inf", "1e400", "-1", "", "[1]", "[" * 50_000, "9" * 5_000, "0x10", "null"],
    ids=lambda v: v[:6],
)
@pytest.mark.parametrize("name", ["recipe.epochs", "recipe.peak_lr", "recipe.seed", "clean_when_done", "checkpoint_mb"])
def test_a_setting_that_is_no_value_is_refused(name, value, capsys, root):
    assert main(["run", "--set", f"{name}={value}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(root.iterdir())


def test_values_are_read_as_they_are_written():
    read = arguments.parser().parse_args
    assert read(["validate", "R", "--drop", "0.01,.5,1e-3"]).drop == (0.01, 0.5, 1e-3)
    assert read(["what-if", "R", "--leave-out", "3, 14", "--relabel", "15=9"]).leave_out == (3, 14)
    assert read(["what-if", "R", "--relabel", "15=9,2=0"]).relabel == {15: 9, 2: 0}
    assert read(["attribute", "R", "--targets", "test:1, class:2,"]).targets == ("test:1", "class:2")
    assert commands._setting("recipe.peak_lr=1") == ("recipe.peak_lr", 1.0)
    assert type(commands._setting("recipe.epochs=8")[1]) is int and commands._setting("clean_when_done=true")[1] is True


def test_a_job_that_is_no_job_leaves_the_run_as_it_is(run, capsys):
    """F12, F13: a typing error after an interruption must not replace what `resume` would go on with."""
    before = (run.path / "manifest.json").read_bytes()
    for call in (
        ["attribute", run.id, "--targets", "test:5-7000"],
        ["validate", run.id, "--subsets", "3"],
        ["validate", run.id, "--drop", "1e-9"],
        ["smoothness", run.id, "--directions", "65"],
        ["what-if", run.id],
        ["what-if", run.id, "--leave-out", "6000"],
        ["what-if", run.id, "--relabel", "3=10"],
    ):
        assert main(call) == 2
    assert (run.path / "manifest.json").read_bytes() == before
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_passed_over_among_the_runs_is_named_with_its_reason(run, tmp_path, capsys):
    """F26: a run that was renamed, and one that is a link to another disk."""
    run.path.rename(run.root / "My_baseline")
    (run.root / "linked").symlink_to(run.root / "My_baseline")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "My_baseline" in printed and "linked" in printed and printed.count("not shown") == 2


def test_runs_are_listed_with_the_names_that_people_gave_them(run, capsys):
    notes.write_name(run, "Long \x1b[31mtraining")
    assert main(["list"]) == 0
    assert "Long \ufffd[31mtraining\n" in capsys.readouterr().out


def test_cleaning_touches_no_run_where_one_of_them_is_none(run, capsys):
    assert main(["clean", run.id, "nope", "--all"]) == 3
    assert run.path.is_dir()
    assert main(["clean", run.id, run.id, "--all"]) == 0 and not run.path.exists()


@pytest.mark.parametrize("target", ["missing/x.csv", ".", "a-file/x.csv"])
def test_a_csv_that_cannot_be_written_is_a_sentence(target, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    assert main(["suspects", run.id, "--target", "test:0.loss", "--csv", target]) == 2
    assert f"--csv {target} cannot be written" in capsys.readouterr().err


# -- terminals and pipes


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, encoding", [(["run", "--help"], "ascii"), (["run", "--help"], "cp1252"), (["--help"], "latin-1")]
)
def test_help_is_printed_in_every_encoding(call, encoding):
    done = engine(*call, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert b"usage: python -m engine" in done.stdout


@pytest.mark.slow
def test_results_are_printed_in_every_encoding(run):
    environment = dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", OMP_NUM_THREADS="1")
    done = engine("validate", run.id, "--subsets", "5", **environment)
    assert done.returncode == 0, done.stderr
    assert b"R?" in done.stdout and b"verdict: " in done.stdout
    for call in (["info", run.id], ["estimate", "--set", "width=0.25"]):
        done = engine(*call, **environment)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, buffered",
    [
        ("info RUN", True),
        ("list", False),
        ("storage", True),
        ("suspects RUN --target test:0.loss", False),
        ("--help", True),
        ("--help", False),
    ],
)
def test_a_reader_that_leaves_is_no_error(call, buffered, run):
    """The reader takes nothing and closes before anything is written: the pipe breaks with the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *([] if buffered else ["-u"]), *CALL[1:], *call.replace("RUN", run.id).split()],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert done.stderr == b"" and done.returncode in (0, 141)


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_progress(root):
    small = ("--set", "recipe.epochs=1", "--set", "recipe.batch_size=1000", "--set", "width=0.25")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*CALL, "run", *small, "--targets", "test:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    (made,) = runs.list_runs(root)
    assert done.returncode == 0 and made.status == "finished" and b"scores " in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_finds_no_space_is_a_sentence(run):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*CALL, "info", run.id], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr.startswith(b"error: the output cannot be written (No space left")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_closed_streams_are_no_error(run):
    script = f'"{sys.executable}" -m engine list >&- 2>&-'
    assert subprocess.run(["sh", "-c", script], cwd=ROOT).returncode == 0


# -- signals


@pytest.mark.slow
@pytest.mark.parametrize("library, call", [("numpy", ["list"]), ("torch", ["run"]), ("pandas", ["suspects", "x"])])
@pytest.mark.parametrize("swallowed", [False, True], ids=["", "and the library swallows the exception"])
def test_ctrl_c_while_libraries_are_imported_is_one_line(library, call, swallowed, tmp_path, root):
    """A library that interrupts the process at its import, at the moment when it is half loaded."""
    (tmp_path / "slow" / library).mkdir(parents=True)
    body = ["import os, signal", "os.kill(os.getpid(), signal.SIGINT)", "for _ in range(10**9): pass"]
    if swallowed:
        body = [body[0], "try:", *(f"    {line}" for line in body[1:]), "except BaseException: raise ImportError"]
    (tmp_path / "slow" / library / "__init__.py").write_text("\n".join(body))
    done = engine(*call, PYTHONPATH=f"{tmp_path / 'slow'}")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")
    assert not list(root.iterdir())


@pytest.mark.slow
def test_ctrl_c_that_the_shell_ignores_stays_ignored(root):
    """`nohup`, or `&` in a script: the parent set SIGINT to be ignored, and that is inherited."""
    code = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "sys.exit(subprocess.run([sys.executable, '-c', 'import signal, sys; from engine.__main__ import console;"
        'sys.argv[1:] = ["list"]\\ntry: console()\\nfinally: print(signal.getsignal(signal.SIGINT))\']).returncode)'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and str(int(signal.SIG_IGN)) in done.stdout


# -- an import changes nothing


@pytest.mark.slow
def test_importing_the_engine_changes_nothing_in_the_process():
    code = """
import gc, logging, os, signal, sys, warnings
import numpy, pandas  # may change what they like

def process():
    return (
        dict(os.environ), signal.getsignal(signal.SIGINT), list(warnings.filters), logging.getLogger().level,
        gc.get_freeze_count(), gc.get_threshold(),
    )

before = process()
import engine
engine.Recipe, engine.ReplayError
assert "torch" not in sys.modules and "streamlit" not in sys.modules
assert process() == before, (before, process())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("load", ["from engine import train", "from engine.commands import load_torch; load_torch()"])
def test_torch_is_loaded_while_the_collector_rests_which_then_works_as_before(load):
    code = f"""
import gc, sys
import engine.commands
before = gc.get_stats()[2]["collections"]
{load}
print(gc.get_stats()[2]["collections"] - before, gc.isenabled(), "torch" in sys.modules)
gc.disable()
from engine.loading import load_derivatives
load_derivatives()
print(gc.isenabled(), "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "True", "True", "False", "True"], done.stderr


@pytest.mark.slow
def test_the_debug_log_shows_the_work(run, caplog):
    assert main(["attribute", run.id, "--targets", "test:1", "--log-level", "debug"]) == 0
    events = [record.message for record in caplog.records if record.name == "engine.commands"]
    assert any("'kind': 'progress'" in e for e in events)

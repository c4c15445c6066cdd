"""Fixtures of all tests, which run in temporary outputs folders and may write there, whatever the environment says."""

import contextlib
import functools
import gc
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from engine.jobs import speed
from engine.loading import collector_at_rest
from engine.runs import run as runs
from tests import copies
from tests import quick as quick_data
from tests.helpers import GUARD, MEASURES_NOTHING, PROBES, tab_is_sound
from tests.made_up import SMALL

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the app computes; read when torch is loaded

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a script with `&`: its children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


SECONDS = {"browser": 10, "slow": 1}  # about, by marker


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """All modules and tests are made here, and stay."""
    with collector_at_rest():
        result = yield
    gc.freeze()
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that opens a browser has the marker `browser`, without that anybody has to remember it. Files that take
    long come first, so that no worker is left with one when the others are done."""
    weights: defaultdict[str, float] = defaultdict(float)
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
        weights[item.path.name] += next((SECONDS[name] for name in SECONDS if item.get_closest_marker(name)), 0.05)
    items.sort(key=lambda item: -weights[item.path.name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the tab of a failed test showed stands in its report."""
    report = yield
    if report.failed and call.when == "call" and (tab := getattr(item, "funcargs", {}).get("page")):
        with contextlib.suppress(Exception):  # the browser may be what failed
            report.sections.append(("Page", f"{tab.url}\n{tab.locator('body').inner_text(timeout=5000)[:5000]}"))
    return report


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_OUTPUTS_DIR", str(tmp_path / "outputs"))
    for setting in (
        "REPLAY_READ_ONLY",
        "REPLAY_CACHE_DIR",
        "REPLAY_MODELS_DIR",
        "REPLAY_RANKS",
        "REPLAY_ALLOWED_HOSTS",
    ):
        monkeypatch.delenv(setting, raising=False)  # what a developer has set is none of a test's business


@pytest.fixture(scope="session", autouse=True)
def nothing_is_measured() -> Iterator[None]:
    """By an Overview that is drawn; also where its queue comes to it when the test has ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "CALL", MEASURES_NOTHING)
        yield


@pytest.fixture(autouse=True)
def components_found_once() -> None:
    """Every page without a browser reads what each installed package says of itself, in search of Streamlit components:
    four fifths of what drawing it takes. What is installed stays, and is read once a process."""
    if scanner := sys.modules.get("streamlit.components.v2.manifest_scanner"):
        if not hasattr(scanner.scan_component_manifests, "cache_clear"):
            scanner.scan_component_manifests = functools.cache(scanner.scan_component_manifests)


@pytest.fixture
def own_data(tmp_path, monkeypatch) -> Path:
    """The folder that data sets are prepared in, of this test alone: for tests that prepare any."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def root(own_outputs) -> Path:
    """An empty outputs folder, which the pages show too; what Streamlit keeps of another test's folder is dropped."""
    if streamlit := sys.modules.get("streamlit"):
        streamlit.cache_resource.clear()
        streamlit.cache_data.clear()
    return runs.outputs_root()


@pytest.fixture(scope="session")
def finished_sample(tmp_path_factory) -> Path:
    """An outputs folder that holds the run of the sample's preset, once a test has made one: it takes a minute. All
    workers of pytest-xdist have the same."""
    session = tmp_path_factory.getbasetemp()
    folder = (session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "finished-sample"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The folder of a small finished run, for tests to copy."""
    from engine.jobs import execute as work  # loads torch

    run = runs.Run.create(runs.outputs_root(tmp_path_factory.mktemp("made")), SMALL)
    with run.lock():
        work.execute(run)
    return run.path


@pytest.fixture
def run(made, root) -> runs.Run:
    """A copy of the small finished run in the test's own outputs folder."""
    shutil.copytree(made, root / made.name)
    return runs.Run.open(root, made.name)


@pytest.fixture(scope="session")
def quick_made(tmp_path_factory) -> Path:
    """The folder of a finished run on so little data that a replay takes a moment, for tests to copy."""
    return _made_on(tmp_path_factory.mktemp("quick"), quick_data)


@pytest.fixture
def quick(quick_made, root, monkeypatch) -> runs.Run:
    """A copy of it in the test's own outputs folder."""
    return _copy_of(quick_made, root, monkeypatch)


@pytest.fixture(scope="session")
def copied_made(tmp_path_factory) -> Path:
    """Likewise, on images of which some are there more than once."""
    return _made_on(tmp_path_factory.mktemp("copied"), copies)


@pytest.fixture
def copied(copied_made, root, monkeypatch) -> runs.Run:
    """A copy of it in the test's own outputs folder."""
    return _copy_of(copied_made, root, monkeypatch)


def _made_on(folder: Path, data) -> Path:
    """The folder of a finished run of `data.CONFIG` on the images of `data.arrays`."""
    from engine.datasets import registry as datasets
    from engine.jobs import execute as work

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLAY_DATA_DIR", str(folder / "data"))
        dataset = datasets.load(datasets.canonical(data.arrays(folder / "images.npz"))).name
        run = runs.Run.create(runs.outputs_root(folder / "outputs"), data.CONFIG.replace(dataset=dataset))
        with run.lock():
            work.execute(run)
    return run.path


def _copy_of(made: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(made.parents[1] / "data"))
    shutil.copytree(made, root / made.name)
    return runs.Run.open(root, made.name)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import expect

    from tools.serve import chromium

    expect.set_options(timeout=GUARD)
    with chromium("--process-per-site") as browser:  # tabs share what they have loaded of the app
        yield browser


@pytest.fixture(scope="session")
def watched(browser) -> Iterator:
    """What all tabs of a process are opened in, and the faults of the test that runs."""
    from tests import app

    faults: list[str] = []
    # What moves of itself is painted by the processor here, and would take a third of what a page takes.
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(GUARD)

    def watch(tab) -> None:
        tab.on(
            "console",
            lambda m: (
                m.type == "error"
                and not m.location["url"].endswith(PROBES)
                and faults.append(f"{m.text} {m.location['url']}")
            ),
        )
        tab.on("pageerror", lambda e: faults.append(str(e)))
        tab.on(
            "request",
            lambda r: (
                r.url.startswith(("http://localhost:", "ws://localhost:", "data:", "blob:"))
                or faults.append(f"asked {r.url}")
            ),
        )

    context.on("page", watch)
    yield context, faults
    context.close()
    app.shared.close()


@pytest.fixture
def page(watched) -> Iterator:
    """A tab that fails the test for any console error, page error, exception or foreign request."""
    from tests import app

    context, faults = watched
    faults.clear()
    tab = context.new_page()
    yield tab
    try:
        tab_is_sound(tab)
    finally:
        app.forget(context)
    assert faults == []

"""The run that a person looks at goes with them from page to page, and the shell around all pages."""

import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from streamlit.testing.v1 import AppTest

from engine.jobs.queue import JobQueue
from engine.runs import run as runs
from tests.helpers import PAGES, ROOT, show, sound

NEWER = "99990101-000000-own-ffff"  # stands before every other


def links(app: AppTest) -> dict[str, dict[str, list[str]]]:
    """What each of the sidebar's links takes along, by its label."""
    protos = [link.proto for link in app.sidebar.get("page_link")]
    return {proto.label: parse_qs(proto.query_string) for proto in protos}


@pytest.fixture
def newer(quick, root) -> runs.Run:
    """A run that is newer than `quick`, and has no scores."""
    shutil.copytree(quick.path, root / NEWER)
    run = runs.Run.open(root, NEWER)
    run.storage().clean(("scores",))
    return run


@pytest.fixture
def two(quick, root) -> tuple[runs.Run, runs.Run]:
    """A run with scores, and a newer one with scores."""
    shutil.copytree(quick.path, root / NEWER)
    return quick, runs.Run.open(root, NEWER)


SHOW_A_RUN = [path for path in PAGES if path not in ("app.py", "pages/Data.py", "pages/Set_up_a_run.py")]
SHOW_A_RUN.remove("pages/Runs_and_storage.py")


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOW_A_RUN)
def test_every_page_opens_on_the_newest_run_with_scores(page, quick, newer):
    assert show(page).query_params["run"] == quick.id


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOW_A_RUN)
def test_the_links_of_every_page_lead_to_the_run_that_it_shows(page, two):
    older, _ = two
    taken = links(show(page, run=older.id))
    for path in SHOW_A_RUN:
        assert taken[PAGES[path]]["run"] == [older.id]
    assert not taken["Overview"] and not taken["Data"] and not taken["Set up a run"]


def test_another_run_that_is_chosen_goes_with_the_links_of_the_same_drawing(two):
    older, newest = two
    app = show("pages/Trust.py")
    assert links(app)["Influence"]["run"] == [newest.id]
    sound(app.selectbox[0].set_value(older.id).run())
    assert links(app)["Influence"]["run"] == [older.id]


def test_a_page_without_a_link_opens_on_the_run_in_hand_and_the_target_goes_along(two):
    older, _ = two
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).switch_page("pages/Influence.py")
    app.query_params["run"] = older.id
    key = list(t.key for t in older.scores().targets())[-1]
    app.query_params["target"] = key
    assert links(sound(app.run()))["Influence"] == {"run": [older.id], "target": [key]}
    app.switch_page("app.py")
    app.query_params.clear()
    assert links(sound(app.run()))["Influence"] == {"run": [older.id], "target": [key]}
    app.switch_page("pages/Training_images.py")
    assert sound(app.run()).query_params["run"] in (older.id, [older.id])


def test_the_target_of_another_run_is_let_go(two):
    older, newest = two
    app = show("pages/Influence.py", run=older.id)
    sound(app.selectbox[0].set_value(newest.id).run())
    assert app.session_state["in hand"]["run"] == newest.id
    app.switch_page("pages/Trust.py")
    app.query_params["run"] = older.id
    assert "target" not in links(sound(app.run()))["Influence"]


def test_live_opens_on_the_run_being_worked_on_and_else_on_that_in_hand(two, monkeypatch):
    older, newest = two
    monkeypatch.setattr(JobQueue, "active", lambda self: [older.id])
    assert show("pages/Live.py").query_params["run"] == older.id
    monkeypatch.setattr(JobQueue, "active", lambda self: [])
    assert show("pages/Live.py").query_params["run"] == newest.id


def test_a_run_in_hand_that_was_deleted_is_no_default(two, root):
    older, newest = two
    app = show("pages/Trust.py", run=newest.id)
    shutil.rmtree(Path(root / newest.id))
    app.query_params.clear()
    assert sound(app.run()).query_params["run"] in (older.id, [older.id])

"""*Trust*'s section on smoothness in time: where it broke and what to change, and the form with that filled in."""

import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect

from engine import files
from engine.jobs.curvature import Curvature
from engine.jobs.queue import JobQueue
from engine.runs.run import Run
from tests.app import server
from tests.helpers import button, idle, said, settled, show, sound, turn
from tests.made_up import run_of
from tests.test_browser import violations
from ui.setup_draft import KEY

pytestmark = [pytest.mark.usefixtures("root"), pytest.mark.slow]

CHAOTIC, STEADY = [40.0, 20.0, 1.5, 1.0], [1.5, 1.2, 1.1, 1.0]  # before steps 0, 8 and 16, and after all 24


def made(root, *norms: list[float], curvature: dict | None = None) -> Run:
    """A run of 24 steps whose adjoints had these norms, one list a target; none: as versions before 0.2 left it."""
    targets = tuple(f"test:{i}" for i in range(max(1, len(norms))))
    run = run_of(root, "made-up", {targets: ("loss", np.ones((len(targets), 6000)))})
    path = run.path / "scores" / "loss-000.json"
    sidecar = json.loads(path.read_text())
    sidecar["norm_steps"] = [24, 16, 8, 0]
    for target, each in zip(sidecar["targets"], norms, strict=False):
        target |= {"norms": each[::-1], "adjoint_growth": each[0] / each[-1]}
    if not norms:
        del sidecar["norm_steps"], sidecar["targets"][0]["norms"]
    run.add_files({"scores/loss-000.json": files.write_json(path, sidecar)})
    if curvature is not None:
        report = {"kind": "curvature", "training_digest": "made up", **curvature}
        name = "validation/curvature.json"
        run.add_files({name: files.write_json(run.path / name, report)})
    return run


CURVATURE = {"steps": [0, 8, 16, 23], "values": [1.0, 3.0, None, 0.5], "limit": 1.36}


def captions(app) -> str:
    return "\n".join(each.value for each in app.caption).replace("\\", "")


def test_the_section_says_where_it_broke_and_what_to_change(root):
    run = made(root, STEADY, CHAOTIC, curvature=CURVATURE)
    app = show("pages/Trust.py", run=run.id)
    words = said(app).replace("\\", "")
    assert "Steps 1 to 16 of 24 are chaotic: what changes there grows × 40 at most" in words
    assert "Let the weights count from step 17 on, or start at a third of the peak rate." in words
    assert "above the limit at 2 of 4 steps looked at" in captions(app) and "which grows most" in captions(app)
    assert not [b for b in app.button if "curvature" in b.label], "it is measured"


def test_a_steady_run_is_said_to_be_and_asks_for_no_change(root):
    app = show("pages/Trust.py", run=made(root, STEADY).id)
    assert "The training is steady from its first step on: early changes grow × 1.5" in said(app).replace("\\", "")
    assert not [link for link in app.get("page_link") if "like=" in link.proto.query_string]


def test_a_run_without_norms_says_to_replay_again(root):
    app = show("pages/Trust.py", run=made(root).id)
    assert "replay again to see it" in captions(app)


def test_the_button_names_what_it_costs_and_asks_for_the_job(root, monkeypatch):
    asked = []
    monkeypatch.setattr(JobQueue, "submit", lambda self, *given: asked.append(given[:2]))
    run = made(root, CHAOTIC)
    app = show("pages/Trust.py", run=run.id)
    sound(button(app, "Measure the curvature by step (about ").click().run())
    assert asked == [(run.id, Curvature())]


@pytest.mark.parametrize(
    "asked, said_so", [({"rate": "1e9"}, "rate"), ({"rate": "nan"}, "The link asks for rate «nan»")]
)
def test_a_link_to_the_form_with_a_value_out_of_range_is_no_error(root, asked, said_so):
    app = show("pages/Set_up_a_run.py", like=made(root, CHAOTIC).id, **asked)
    draft = app.session_state[KEY]
    assert draft.config.recipe.epochs == 2 and said_so in said(app).replace("\\", "") + str(draft.changes)


def test_a_link_to_the_form_of_a_run_that_is_gone_says_so(root):
    assert "gone" in said(show("pages/Set_up_a_run.py", like="gone"))


def test_a_click_opens_the_form_with_what_is_proposed_filled_in(root, page):
    run = made(root, STEADY, CHAOTIC, curvature=CURVATURE)
    with server(root, page) as (url, _):
        page.goto(f"{url}/Trust?run={run.id}")
        settled(page, "Trust")
        expect(page.get_by_role("heading", name="Smoothness in time")).to_be_visible()
        idle(page)
        for theme in ("light", "dark"):
            assert not violations(page, theme)
        for link, field, value in (
            ("Set up a run at a third of the rate (0.017)", "Peak learning rate", "0.017"),
            ("Set up a run whose weights count from step 17", "Attribution window", "16"),
        ):
            page.get_by_role("link", name=link).click()
            settled(page, "Set up a run")
            expect(page.get_by_role("spinbutton", name=field)).to_have_value(re.compile(rf"^{re.escape(value)}[.0]*$"))
            expect(page.get_by_role("spinbutton", name="Epochs")).to_have_value("2")
            turn(page, f"{url}/Trust?run={run.id}")
            settled(page, "Trust")

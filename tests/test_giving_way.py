"""Pages first: a job's step waits while a page is drawn, no longer than its bound, and computes the same; memory that
pages are done with goes back to the system."""

import ctypes
import math
import sys
import threading

import numpy as np
import pytest

from engine.jobs import execute as work
from engine.jobs import giving_way
from engine.jobs.giving_way import Way
from engine.runs.run import Run
from tests.helpers import show
from ui import shell, trim


def test_a_step_waits_until_a_page_is_drawn():
    way, order = Way(at_most=60, laid_out=0), []
    job = threading.Thread(target=lambda: order.append(("step", way.give() > 0)))
    with way.drawing():
        job.start()
        while job.is_alive() and not way._changed._waiters:  # type: ignore[attr-defined]
            pass  # until it waits, or has not waited
        order.append("drawn")
    job.join(60)
    assert order == ["drawn", ("step", True)]
    assert way.give() == 0  # nothing is drawn


def test_a_page_that_takes_long_is_waited_for_once_and_within_the_bound():
    way, waited = Way(at_most=0.02), []
    job = threading.Thread(target=lambda: waited.append(way.give()), daemon=True)
    with way.drawing():
        job.start()
        job.join(60)
        assert waited and waited[0] > 0, "a job waits as long as the page takes, or not at all"
        way._works_until = 0
        assert way.give() == 0  # this drawing has had its time
    assert way.give() == 0


def test_what_the_browser_lays_out_is_waited_for_within_the_same_bound():
    way = Way(at_most=0.02, laid_out=60)
    with way.drawing():
        pass
    assert 0 < way.give() < 60


def test_a_job_works_as_long_as_it_waited_before_it_waits_again():
    way = Way(at_most=0.02)
    with way.drawing():
        waited = way.give()
    assert way._works_until >= waited + 0.02
    way._works_until = math.inf
    with way.drawing():
        assert way.give() == 0


def test_steps_wait_while_a_page_is_drawn_and_not_while_a_part_draws_itself(root, monkeypatch):
    """A fragment is drawn without `shell.page`; of a page all is, from its frame to its end."""
    looks, exact = [], shell.all_runs
    monkeypatch.setattr(shell, "all_runs", lambda *a, **k: looks.append(len(giving_way._way._drawn)) or exact(*a, **k))
    monkeypatch.setattr(trim, "soon", lambda: looks.append("trim"))
    show("pages/Glossary.py")
    assert set(looks) == {1, "trim"} and looks[-1] == "trim"
    assert not giving_way._way._drawn


@pytest.mark.slow
def test_scores_are_the_same_bits_where_every_step_waits(quick, monkeypatch):
    way, waits = Way(at_most=0.002), []

    def give() -> float:
        way._works_until = 0
        with way.drawing():
            waits.append(way.give())
        return waits[-1]

    monkeypatch.setattr(giving_way, "give", give)
    config = quick.manifest().config.replace(device="cpu")
    again = Run.create(quick.root, config, "waits")
    with again.lock():
        work.execute(again)
    assert len(waits) >= 2 * again.manifest().steps and all(waits)  # forwards and backwards
    scores = [each.scores().matrix("loss-000") for each in (quick, again)]
    assert np.array_equal(*scores) and np.abs(scores[0]).sum() > 0


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc")
def test_memory_is_trimmed_once_no_page_is_drawn(monkeypatch):
    trimmed = threading.Event()

    class Library:
        malloc_trim = staticmethod(lambda pad: trimmed.set())

    monkeypatch.setattr(trim.ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(trim, "CALM", 0.0)
    monkeypatch.setattr(trim, "_thread", None)
    monkeypatch.setattr(trim, "_drawn", threading.Event())
    trim.soon()
    assert trimmed.wait(60)

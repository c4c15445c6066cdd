"""The threads that write and read states: in order, and to the end of the process."""

import gc
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from engine.trajectory.background import Background

ROOT = Path(__file__).parents[1]


def test_tasks_are_done_in_order_and_their_results_and_errors_come_back():
    thread, done = Background("test"), []
    futures = [thread.submit(lambda i=i: done.append(i) or i) for i in range(20)]
    failed = thread.submit(lambda: 1 / 0)
    last = thread.submit(lambda: "still there")
    assert [f.result() for f in futures] == done == list(range(20)) and last.result() == "still there"
    with pytest.raises(ZeroDivisionError):
        failed.result()
    thread.close()


def test_closing_ends_the_task_in_hand_and_gives_up_the_others():
    thread, began, gate, done = Background("test"), threading.Event(), threading.Event(), []
    first = thread.submit(lambda: (began.set(), gate.wait(), done.append(1)))
    second = thread.submit(lambda: done.append(2))
    began.wait()
    closer = threading.Thread(target=thread.close)
    closer.start()
    with pytest.raises(CancelledError):
        second.result()
    gate.set()
    closer.join()
    assert first.done() and done == [1] and not thread._thread.is_alive()
    with pytest.raises(RuntimeError):
        thread.submit(lambda: None)


def test_a_thread_that_nobody_holds_ends():
    thread = Background("test")
    thread.submit(lambda: None).result()
    worker = thread._thread
    del thread
    gc.collect()
    worker.join(60)
    assert not worker.is_alive()


@pytest.mark.slow
def test_tasks_are_taken_and_done_after_the_main_thread_has_ended():
    """As in a server that handles its signal and returns from main while a job writes its last states."""
    code = """
import atexit, threading
from engine.trajectory.background import Background
from engine.trajectory.writer import Writer

atexit.register(lambda: worker.join())    # before there is any thread of ours: hooks run in reverse

def job():
    threading.main_thread().join()
    writer, reader = Writer(), Background("reader")        # made late, too
    futures = [early.write(1, lambda i=i: done.append(i)) for i in range(5)]
    early.flush(); writer.write(1, lambda: done.append(5)); writer.flush()
    done.append(reader.submit(lambda: 6).result())
    reader.close(); writer.close(); early.close()
    print(done)

done, early = [], Writer()
worker = threading.Thread(target=job, daemon=True)
worker.start()
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0 and process.stdout.strip() == "[0, 1, 2, 3, 4, 5, 6]", process.stderr

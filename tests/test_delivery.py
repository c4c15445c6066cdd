"""What is clicked is done, whole and in its order, and what a page offers can be had: `ui.delivery`, on a small one."""

import shutil
import threading
from pathlib import Path

import pytest

from tests.helpers import idle, wait_until
from tools.serve import ROOT, drawn, serving

APP = """
import pathlib, time
import streamlit as st
from ui import delivery

if not hasattr(st, "mended"):
    st.mended = delivery.in_order()

def done(name):
    with pathlib.Path(FILE).open("a") as file:
        file.write(name + " ")

def slowly(name):
    st.session_state["at"] = name      # where Streamlit looks for a next click
    time.sleep(0.2)
    st.session_state["at"] = name
    done(name)

st.title("Clicks")
st.session_state["drawn"] = st.session_state.get("drawn", 0) + 1
st.text(f"Drawn {st.session_state.drawn}")
st.download_button("File", lambda: "what it holds", "file.txt", on_click="ignore")
for name in "ab":
    st.button(name, on_click=slowly, args=(name,))
for _ in range(3):
    time.sleep(0.1)
    st.text("Here it looks, too.")
if st.button("c"):
    done("c")
st.button("d", on_click=slowly, args=("d",))
st.button("e")
"""


@pytest.fixture
def url(tmp_path):
    shutil.copytree(ROOT / ".streamlit", tmp_path / ".streamlit")
    (tmp_path / "app.py").write_text(APP.replace("FILE", repr(str(tmp_path / "done"))))
    with serving(tmp_path, app=tmp_path, PYTHONPATH=str(ROOT)) as (url, _):
        yield url


def test_all_that_is_clicked_is_done_in_its_order(url, page, tmp_path):
    """Also where the page is to answer the click, and where the one before is still being done."""
    page.goto(url)
    drawn(page)
    for clicks in ("abcd", "dcba", "bcad", "cdcb"):
        (tmp_path / "done").unlink(missing_ok=True)
        for name in clicks:
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_timeout(60)
        wait_until(lambda: len(done(tmp_path)) >= 4, page)
        idle(page)
        assert done(tmp_path) == [*clicks]


def done(folder: Path) -> list[str]:
    file = folder / "done"
    return file.read_text().split() if file.exists() else []


def test_a_file_is_given_that_was_drawn_anew_before_the_browser_was_told(url, page):
    held: list = []  # what the server has said since `late`
    late = threading.Event()

    def pass_on(browser) -> None:
        server = browser.connect_to_server()
        server.on_message(lambda message: held.append(message) if late.is_set() else browser.send(message))
        sockets.append(browser)

    sockets: list = []
    page.route_web_socket("**/_stcore/stream", pass_on)
    page.goto(url)
    drawn(page)
    late.set()
    page.get_by_role("button", name="e", exact=True).click()
    wait_until(lambda: b"Drawn 2" in b"".join(held), page)
    page.wait_for_timeout(1500)  # until it has ended
    with page.expect_download() as file:
        page.get_by_role("button", name="File").click()
        page.wait_for_timeout(1000)
        late.clear()
        for message in held:
            sockets[-1].send(message)
    assert Path(file.value.path()).read_text() == "what it holds"

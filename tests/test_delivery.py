"""What is clicked is done, whole and in its order, and what a page offers can be had: `ui.delivery`, on a small one."""

import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.helpers import Held, Timers, idle, wait_until
from tests.late_end import LATE
from tools.serve import ROOT, drawn, serving

APP = """
import pathlib, time
import streamlit as st
from ui import delivery, link

if not hasattr(st, "mended"):
    st.mended = delivery.in_order()
    st.rerun()  # in a thread that has begun with it

def done(name):
    with pathlib.Path(FILE).open("a") as file:
        file.write(name + " ")

def slowly(name):
    st.session_state["at"] = name      # where Streamlit looks for a next click
    time.sleep(0.2)
    st.session_state["at"] = name
    done(name)

@st.fragment(run_every=99)  # longer than any of these tests
def seldom():
    st.text("Asked for by a timer.")

st.title("Clicks")
seldom()
st.session_state["drawn"] = st.session_state.get("drawn", 0) + 1
st.text(f"Drawn {st.session_state.drawn}")
st.download_button("File", lambda: "what it holds", "file.txt", on_click="ignore")
for name in "ab":
    st.button(name, on_click=slowly, args=(name,))
for name in "xyz":
    link.follow(name, link.one_of(name, ("yes",), None) is not None)
    st.checkbox(name, key=name)
for _ in range(3):
    time.sleep(0.1)
    st.text("Here it looks, too.")
if st.button("c"):
    done("c")
st.button("d", on_click=slowly, args=("d",))
st.button("e")
def ticked():
    if st.session_state["f"].get("ticked"):
        done("f")

TICK = st.components.v2.component("tick", html="<button>f</button>", js=JS)
if st.toggle("More"):
    TICK(key="f", on_ticked_change=ticked)
    for _ in range(20):
        time.sleep(0.1)
        st.text("It looks for long.")
    if st.button("g"):
        done("g")
link.keep(**{name: "yes" if st.session_state[name] else None for name in "xyz"})
st.text(f"Whole {st.session_state.drawn}")
"""

JS = """export default ({ parentElement, setTriggerValue }) => {
  parentElement.querySelector("button").onclick = () => setTriggerValue("ticked", true)
}"""


@pytest.fixture
def inside() -> str:
    return ""


@pytest.fixture
def url(tmp_path, inside):
    shutil.copytree(ROOT / ".streamlit", tmp_path / ".streamlit")
    (tmp_path / "app.py").write_text(APP.replace("FILE", repr(str(tmp_path / "done"))).replace("JS", repr(JS)))
    with serving(tmp_path, app=tmp_path, inside=inside, PYTHONPATH=str(ROOT)) as (url, _):
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


def test_choices_in_a_row_count_where_each_cuts_short_what_the_one_before_draws(url, page):
    """Before that has come to what writes the choice to the URL, with which it goes back."""
    page.goto(url)
    drawn(page)
    for names, expected in (("xyz", "xyz"), ("zx", "y"), ("yxz", "xz")):
        for name in names:
            page.get_by_text(name, exact=True).click()
            page.wait_for_timeout(60)
        expect_chosen(page, expected)
    while (before := in_url(page)) != "":
        page.go_back()
        wait_until(lambda before=before: in_url(page) != before, page)
        expect_chosen(page, in_url(page))


def expect_chosen(page: Page, names: str) -> None:
    for name in "xyz":
        expect(page.get_by_role("checkbox", name=name, exact=True)).to_be_checked(checked=name in names)
    wait_until(lambda: in_url(page) == names, page)
    idle(page)


def in_url(page: Page) -> str:
    return "".join(sorted(parse_qs(urlsplit(page.url).query)))


def test_a_click_is_done_once_also_where_a_timer_asks_before_the_browser_has_said_it(url, page, tmp_path):
    timers = Timers(page)
    page.goto(url)
    drawn(page)
    for count, name in enumerate("abcdf", start=1):
        if name == "f":
            page.get_by_text("More").click()
            page.get_by_role("button", name=name, exact=True).wait_for()
        idle(page)
        timers.ask_after_a_click(page.get_by_role("button", name=name, exact=True))
        wait_until(lambda count=count: len(done(tmp_path)) >= count, page)
    idle(page)
    page.wait_for_timeout(500)  # for what would come
    assert done(tmp_path) == [*"abcdf"]


@pytest.mark.parametrize("inside", ["tests.late_end"])
def test_what_a_page_draws_is_there_also_where_the_thread_before_ends_late(url, page, tmp_path):
    """What that one clears away is what it has not drawn itself, and each click that was not there when it began."""
    page.goto(url)
    drawn(page)
    for name in "fg":
        idle(page)
        before, drawings = done(tmp_path), int(page.get_by_text("Drawn").inner_text().split()[1])
        page.get_by_role("button", name="e", exact=True).click()
        expect(page.get_by_text(f"Whole {drawings + 1}")).to_be_visible()  # its thread is about to end
        button = page.get_by_role("button", name=name, exact=True)
        if name == "f":
            page.get_by_text("More").click()
            expect(button).to_be_visible()
            page.wait_for_timeout(1000 * LATE)  # it has ended
        button.click()
        wait_until(lambda before=before: len(done(tmp_path)) > len(before), page)
        assert done(tmp_path) == [*before, name]
        if name == "g":
            page.get_by_text("More").click()
            expect(button).to_have_count(0)


def done(folder: Path) -> list[str]:
    file = folder / "done"
    return file.read_text().split() if file.exists() else []


def test_a_file_is_given_that_was_drawn_anew_before_the_browser_was_told(url, page):
    held = Held(page)
    page.goto(url)
    drawn(page)
    held.begin()
    page.get_by_role("button", name="e", exact=True).click()
    wait_until(lambda: held.has(b"Drawn 2"), page)
    page.wait_for_timeout(1500)  # until it has ended
    with page.expect_download() as file:
        page.get_by_role("button", name="File").click()
        page.wait_for_timeout(1000)
        held.end()
    assert Path(file.value.path()).read_text() == "what it holds"


def test_a_file_that_was_made_is_given_though_the_page_was_drawn_again_and_again_before_it_was_fetched(url, page):
    held = Held(page)
    page.goto(url)
    drawn(page)
    idle(page)
    held.begin()
    with page.expect_download() as file:
        page.get_by_role("button", name="File").click()
        wait_until(lambda: held.has(b"/media/"), page)
        for count in (2, 3, 4):
            page.get_by_role("button", name="e", exact=True).click()
            wait_until(lambda count=count: held.has(b"Whole %d" % count), page)
        page.wait_for_timeout(500)  # until it has ended
        held.end()
    assert Path(file.value.path()).read_text() == "what it holds"

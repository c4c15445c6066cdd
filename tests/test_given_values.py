"""What the app gives a widget is not taken back by a browser that has not shown it: `ui.given_values`."""

import shutil

import pytest
from playwright.sync_api import expect

from tests.app import keep_loaded
from tests.helpers import Held, idle, wait_until
from tools.serve import ROOT, drawn, serving

APP = """
import pathlib, time
import streamlit as st
from ui import delivery

if not hasattr(st, "mended"):
    st.mended = delivery.in_order()
    st.rerun()  # in a thread that has begun with it

NAMES = ["none", "one", "other"]
VALUES = {
    "first": dict(radio="one", select="one", segments="one", several=["one"], pills=["one"], check=True, toggle=True,
                  number=5, real=0.5, text="one", area="one", slider=5, range=(2, 5), steps="one"),
    "second": dict(radio="other", select="other", segments="other", several=["other"], pills=["other"], check=False,
                   toggle=False, number=7, real=0.7, text="other", area="other", slider=7, range=(5, 7), steps="other"),
}
WIDGETS = dict(
    radio=lambda label, **more: st.radio(label, NAMES, **more),
    select=lambda label, **more: st.selectbox(label, NAMES, **more),
    segments=lambda label, **more: st.segmented_control(label, NAMES, **more),
    several=lambda label, **more: st.multiselect(label, NAMES, **more),
    pills=lambda label, **more: st.pills(label, NAMES, selection_mode="multi", **more),
    check=st.checkbox,
    toggle=st.toggle,
    number=lambda label, **more: st.number_input(label, 0, 9, **more),
    real=lambda label, **more: st.number_input(label, 0.0, 0.9, **more),
    text=st.text_input,
    area=st.text_area,
    slider=lambda label, **more: st.slider(label, 0, 9, **more),
    range=lambda label, **more: st.slider(label, 0, 9, (0, 9), **more),
    steps=lambda label, **more: st.select_slider(label, NAMES, **more),
)

def note(text):
    st.session_state.clicks += 1
    with pathlib.Path(FILE).open("a") as file:
        file.write(text + "\\n")

def take(key):
    st.session_state.kept = {**st.session_state.kept, key: st.session_state["w-" + key]}
    note(f"chosen {key} {st.session_state['w-' + key]}")

def give(name):
    st.session_state.kept = VALUES[name]
    note("given " + name)

def give_at_once(name):
    for key, value in VALUES[name].items():
        st.session_state["w-" + key] = value
    give(name)

st.title("Values")
kept = st.session_state.setdefault("kept", VALUES["first"])
st.session_state.setdefault("clicks", 0)  # one drawing may be that of two
for name in VALUES:
    st.button(name, on_click=give, args=(name,))
st.button("second at once", on_click=give_at_once, args=("second",))
st.button("nothing", on_click=note, args=("nothing",))

@st.fragment(run_every=0.4)
def moving():
    st.text(f"At {time.monotonic()}")

moving()
st.text(f"Begun {st.session_state.clicks}")
for key, widget in WIDGETS.items():
    place = "w-" + key
    if place not in st.session_state or st.session_state[place] != kept[key]:
        st.session_state[place] = kept[key]
    widget(key, key=place, on_change=take, args=(key,))
    time.sleep(0.02)
st.text("Values: " + repr({key: st.session_state["w-" + key] for key in WIDGETS}))
st.text(f"Whole {st.session_state.clicks}")
"""
FIRST, SECOND = "'radio': 'one'", "'radio': 'other'"  # of what the page says that its widgets have


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page's folder and address; of each session its own values."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(ROOT / ".streamlit", folder / ".streamlit")
    (folder / "app.py").write_text(APP.replace("FILE", repr(str(folder / "done"))))
    with serving(folder, app=folder, PYTHONPATH=str(ROOT)) as (url, _):
        yield folder, url


@pytest.fixture
def url(served, page) -> str:
    keep_loaded(page.context, served[1])
    return served[1]


@pytest.fixture
def done(served):
    """What was clicked and chosen, in order."""
    file = served[0] / "done"
    file.unlink(missing_ok=True)
    return lambda: file.read_text().splitlines() if file.exists() else []


def click(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def click_and_see(page, name: str) -> None:
    """Until the drawing after it is there, whole."""
    last = page.get_by_text("Whole")
    before = last.inner_text()
    click(page, name)
    expect(last).not_to_have_text(before)
    idle(page)


def shows(page, radio: str, text: str, number: str) -> None:
    """What the widgets of the browser themselves have, not what the page says that they have."""
    expect(page.get_by_role("radio", name=radio, exact=True).first).to_be_checked()
    expect(page.get_by_role("textbox", name="text", exact=True)).to_have_value(text)
    expect(page.get_by_role("spinbutton", name="number")).to_have_value(number)


@pytest.mark.parametrize(
    "first", [b"Begun 0", *(f"w-{key}".encode() for key in ("radio", "several", "check", "range"))]
)
def test_a_browser_that_shows_the_second_drawing_alone_has_the_values_of_the_first(url, page, done, first):
    """It hears of both at once: each widget stands there from the second on, or from the first."""
    held = Held(page, first)
    page.goto(url)
    wait_until(lambda: held.has(b"Whole 0"), page)
    click(page, "nothing")
    wait_until(lambda: held.has(b"Whole 1"), page)
    held.end()
    expect(page.get_by_text("Whole 1")).to_be_visible()
    shows(page, "one", "one", "5")
    for _ in range(2):
        click_and_see(page, "nothing")
    expect(page.get_by_text(FIRST)).to_be_visible()
    shows(page, "one", "one", "5")
    assert done() == ["nothing"] * 3


@pytest.mark.parametrize("given", ["second", "second at once"])
def test_a_click_on_a_page_that_was_given_other_values_takes_none_of_them_back(url, page, done, given):
    """It was made before the browser heard of them. `at once`: also where the drawing that gives them is cut short."""
    held = Held(page)
    page.goto(url)
    drawn(page)
    held.begin()
    click(page, given)
    if given == "second":
        wait_until(lambda: held.has(b"Whole 1"), page)
    click(page, "nothing")
    wait_until(lambda: held.has(b"Whole 2"), page)
    page.wait_for_timeout(1000)  # timers ask, too
    held.end()
    expect(page.get_by_text("Whole 2")).to_be_visible()
    shows(page, "other", "other", "7")
    click_and_see(page, "nothing")
    expect(page.get_by_text(SECOND)).to_be_visible()
    shows(page, "other", "other", "7")
    assert done() == ["given second", "nothing", "nothing"]


def test_a_value_that_was_given_can_be_set_back_and_every_other_chosen(url, page, done):
    page.goto(url)
    drawn(page)
    click_and_see(page, "second")
    shows(page, "other", "other", "7")
    page.get_by_text("one", exact=True).first.click()  # the radio's
    wait_until(lambda: "chosen radio one" in done(), page)
    number = page.get_by_role("spinbutton", name="number")
    number.fill("5")
    number.press("Enter")
    wait_until(lambda: "chosen number 5" in done(), page)
    text = page.get_by_role("textbox", name="text", exact=True)
    text.fill("one")
    text.press("Enter")
    wait_until(lambda: "chosen text one" in done(), page)
    page.get_by_text("toggle", exact=True).click()
    wait_until(lambda: "chosen toggle True" in done(), page)
    idle(page)
    shows(page, "one", "one", "5")
    assert done() == ["given second", "chosen radio one", "chosen number 5", "chosen text one", "chosen toggle True"]


def test_what_a_person_chooses_in_a_page_that_was_not_told_of_other_values_counts(url, page, done):
    held = Held(page)
    page.goto(url)
    drawn(page)
    held.begin()
    click(page, "second")
    wait_until(lambda: held.has(b"Whole 1"), page)
    page.get_by_text("none", exact=True).first.click()  # the radio's: neither what it was nor what it was given
    wait_until(lambda: held.has(b"Whole 2"), page)
    held.end()
    expect(page.get_by_text("Whole 2")).to_be_visible()
    click_and_see(page, "nothing")
    expect(page.get_by_text("'radio': 'none', 'select': 'other'")).to_be_visible()
    shows(page, "none", "other", "7")
    assert done() == ["given second", "chosen radio none", "nothing"]

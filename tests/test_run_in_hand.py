"""The run that a person looks at goes with them from page to page, and the shell around all pages."""

import http.client
import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from engine.errors import ConfigError, IntegrityError
from engine.jobs.queue import JobQueue
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.run import Summary
from tests.app import server
from tests.helpers import PAGES, ROOT, idle, pick, settled, show, sound, turn
from tools.serve import serving
from ui import addresses, run_names
from ui.navigation import NAVIGATION

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


SHOW_A_RUN = [link.path for links in NAVIGATION.values() for link in links if "run" in link.carries]


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


@pytest.mark.slow
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


# -- names


def of_seed(seed: int | None, **fields) -> Summary:
    return Summary(
        **{
            "id": f"run-{seed}",
            "status": "finished",
            "created": "2026-11-26T16:52:00+00:00",
            "dataset": "fashion-mnist-sample",
            "model": "small-cnn",
            "seed": seed,
            "test_accuracy": 0.8421,
            **fields,
        }
    )


def test_a_run_is_called_by_what_it_is_or_as_a_person_says():
    today = run_names.when("2026-11-26T16:52:00+00:00")
    assert run_names.of(of_seed(1)) == f"Sample, seed 1 · 84.2 % · {today}"
    assert run_names.of(of_seed(1, model="resnet9", test_accuracy=None)) == f"Sample, resnet9, seed 1 · {today}"
    own = of_seed(0, dataset="folder:/data/my pets?side=32")
    assert run_names.of(own) == f"my pets, small-cnn, seed 0 · 84.2 % · {today}"
    assert run_names.of(of_seed(1, name="With *dropout*")) == "With *dropout*"
    assert run_names.of(Summary("damaged-1", "damaged", "It is broken.")) == "damaged-1"


@pytest.mark.parametrize(
    "now, words", [("2026-11-26", "16:52"), ("2026-11-27", "26 Nov 16:52"), ("2027-01-01", "26 Nov 2026 16:52")]
)
def test_the_time_says_as_much_of_the_date_as_it_takes(now, words):
    assert run_names.when("2026-11-26T16:52:00+00:00", datetime.fromisoformat(f"{now}T20:00:00+00:00")) == words


def test_no_two_choices_read_the_same():
    runs = [of_seed(1), of_seed(1, id="b"), of_seed(2), of_seed(3, name=f"{run_names.of(of_seed(1))} · b")]
    labels = run_names.labels(runs)
    assert len(set(labels.values())) == 4 and labels["run-2"] == run_names.of(of_seed(2))
    assert labels["run-1"].endswith(" · run-1") and labels["b"].endswith(" · b")


def test_a_name_is_kept_with_the_notes_and_checked(quick):
    notes.tick(quick, {3: True}, 10)
    notes.write_name(quick, "  Long\n training ")
    assert notes.name_of(quick) == notes.read(quick).name == "Long training" and notes.read(quick).ticked == (3,)
    with pytest.raises(ConfigError, match="81 characters"):
        notes.write_name(quick, "x" * 81)
    with pytest.raises(ConfigError, match="lone surrogate"):
        notes.write_name(quick, "x\ud800")
    notes.write_name(quick, "")
    assert notes.name_of(quick) == "" and "name" not in json.loads((quick.path / "notes.json").read_text())
    for wrong in (7, "x" * 81, None):
        (quick.path / "notes.json").write_text(json.dumps({"ticked": [], "notes": {}, "name": wrong}))
        with pytest.raises(IntegrityError, match="name is no text of at most 80"):
            notes.read(quick)
        assert notes.name_of(quick) == ""


def test_a_name_is_given_beside_the_chooser_and_read_everywhere_as_plain_text(two):
    older, newest = two
    said = "![x](http://evil.example) *one*"
    app = show("pages/Trust.py", run=older.id)
    assert app.selectbox[0].options == [
        run_names.labels(map(runs.summary, (newest, older)))[r.id] for r in (newest, older)
    ]
    sound(app.text_input(key=f"name-{older.id}").set_value(said).run())
    assert app.selectbox[0].options[1] == said and app.selectbox[0].value == older.id
    assert app.query_params["run"] in (older.id, [older.id]) and notes.name_of(older) == said
    table = show("pages/Runs_and_storage.py")
    assert said in str(table.dataframe[0].value)
    assert not [m.value for m in show("app.py").markdown if "![x](" in m.value]


# -- what a page says while it has nothing to show


@pytest.mark.parametrize("page", SHOW_A_RUN)
def test_an_empty_page_says_what_it_would_show(page, root):
    (text,) = [info.value for info in show(page).info]
    shows = next(link.shows for links in NAVIGATION.values() for link in links if link.path == page)
    assert shows and shows in text


def test_a_bad_link_is_told_below_the_title_and_not_within_a_row(quick):
    app = show("pages/Influence.py", run=quick.id, k="7", side="left")
    kinds = [element.type for element in app.main if element.type in ("warning", "selectbox")]
    assert kinds[:3] == ["warning", "warning", "selectbox"] and kinds.count("warning") == 2


# -- what the server does for addresses


def answer(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


@pytest.mark.slow
@pytest.mark.parametrize("base", ["", "tool/replay"])
def test_a_page_is_found_in_any_case_and_comes_with_the_script(base, tmp_path):
    with serving(tmp_path, *(("--server.baseUrlPath", base) if base else ())) as (url, _):
        port, root = urlsplit(url).port, urlsplit(url).path
        moved = answer(port, f"{root}/inFluence?run=a%20b&run=c")
        assert moved.status == 307 and moved.getheader("location") == "Influence?run=a%20b&run=c"
        assert answer(port, "//evil.example/influence").status != 307
        whole = answer(port, f"{root}/Influence")
        content = whole.read()
        assert whole.status == 200 and addresses.SCRIPT in content and content.count(b"</head>") == 1
        assert int(whole.getheader("content-length")) == len(content) and whole.getheader("etag") is None
        again = answer(port, f"{root}/Influence", **{"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"})
        assert again.status == 200 and again.read() == content  # never an earlier one, without the script
        assert answer(port, f"{root}/Influence", "HEAD").status == 200
        assert answer(port, f"{root}/_stcore/health").read() == b"ok"


# -- in a browser


def back(page) -> None:
    page.evaluate("history.back()")


def test_back_leads_to_what_was_seen_and_every_link_to_the_run_in_hand(page, two):
    older, newest = two
    names = run_names.labels(map(runs.summary, two))
    with server(older.root, page) as (url, _):
        page.goto(f"{url}/influence")  # a page without a link, in the wrong case
        settled(page, "Influence")
        page.wait_for_url(re.compile(rf"/Influence\?run={newest.id}"))
        idle(page)
        first, entries = page.url, page.evaluate("history.length")
        pick(page, "Run", names[older.id])
        page.wait_for_url(re.compile(rf"run={older.id}"))
        idle(page)
        second = page.url
        assert page.evaluate("history.length") == entries + 1
        page.locator('[data-testid="stSidebar"]').get_by_role("link", name="Test images").click()
        settled(page, "Test images")
        idle(page)
        assert f"run={older.id}" in page.url and page.evaluate("history.length") == entries + 2
        for address in (second, first):
            back(page)
            page.wait_for_url(address)
            settled(page, "Influence")
            idle(page)
            expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(
                names[older.id if address == second else newest.id]
            )
        assert page.evaluate("history.length") == entries + 2
        page.evaluate("history.forward()")
        page.wait_for_url(second)
        settled(page, "Influence")
        idle(page)

        # *Live* writes nothing but the run.
        turn(page, f"{url}/Live?run={newest.id}")
        settled(page, "Live")
        idle(page)
        pick(page, "Run", names[older.id])
        page.wait_for_url(f"{url}/Live?run={older.id}")
        idle(page)
        back(page)
        page.wait_for_url(f"{url}/Live?run={newest.id}")
        idle(page)
        expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(names[newest.id])
        back(page)
        page.wait_for_url(second)
        settled(page, "Influence")
        idle(page)

        # A busy browser writes what the next page is asked under the address of this one, and then the right one.
        page.keyboard.press("Shift")  # somebody does something
        page.evaluate("for (const to of ['?wrong=1', 'Test_images?wrong=1']) history.pushState({}, '', to)")
        assert page.url == f"{url}/Test_images?wrong=1" and page.evaluate("history.length") == entries + 2
        back(page)
        page.wait_for_url(second)


def test_a_link_is_copied_by_a_click_and_by_the_keyboard(page, quick):
    with server(quick.root, page, "--server.baseUrlPath", "tool/replay") as (url, _):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"{url}/Test_images?run={quick.id}&wrong=1")
        settled(page, "Test images")
        idle(page)
        button = page.get_by_role("button", name="Copy link")
        button.click()
        expect(page.get_by_role("status").get_by_text("Copied")).to_be_attached()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.url and copied.startswith(f"{url}/Test_images?") and "wrong=1" in copied

        # Where a browser gives no clipboard, the older way; the focus stays where it was.
        page.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(); history.replaceState(null, '', '#x') }"
        )
        expect(button).to_be_visible()
        button.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status").get_by_text("Copied")).to_be_attached()
        assert page.evaluate("navigator.clipboard.readText()") == page.url
        page.evaluate("document.execCommand = () => false")
        expect(button).to_be_visible()
        button.click()
        expect(page.get_by_label("Copy this address:")).to_have_value(page.url)


def test_a_page_notices_that_its_run_has_changed_and_waits_while_something_is_typed(page, quick):
    badge = page.locator(".st-key-run-badge")
    scores = {"scored": None, "targets_scored": None}
    finished = quick.manifest()
    quick.update_manifest(status_said="replaying", **scores)
    with server(quick.root, page) as (url, _):
        held = quick.lock().acquire()
        page.goto(f"{url}/Trust?run={quick.id}")
        settled(page, "Trust")
        expect(badge).to_contain_text("Replaying")
        quick.update_manifest(status_said="validating")
        expect(badge).to_contain_text("Validating")
        quick.write_manifest(finished)
        os.close(held)
        expect(badge).to_contain_text("Finished")
        expect(page.get_by_text("Validate", exact=True).first).to_be_visible()

        page.reload()  # the scores and the end of the work are two changes: no drawing of one is still to come
        settled(page, "Trust")
        expect(page.get_by_text("Validate", exact=True).first).to_be_visible()
        idle(page)
        page.get_by_role("button", name="Name").click()
        field = page.get_by_role("textbox", name="Name of this run")
        field.fill("half a na")
        quick.storage().clean(("scores",))
        show = page.locator(".st-key-watch button")
        expect(show).to_be_visible()
        expect(field).to_have_value("half a na")
        field.press("Enter")
        page.keyboard.press("Escape")
        expect(page.get_by_text("The scores of this run were deleted.")).to_be_visible()
        expect(show).to_be_hidden()
        assert notes.name_of(quick) == "half a na"


def test_the_menu_offers_the_themes(page, root):
    dark = "getComputedStyle(document.querySelector('.stApp')).backgroundColor.match(/\\d+/)[0] < 128"
    with server(root, page) as (url, _):
        page.emulate_media(color_scheme="light")
        page.goto(url)
        settled(page, "Replay Explorer")
        page.get_by_test_id("stMainMenuButton").click()
        page.get_by_role("button", name="Dark").or_(page.get_by_role("menuitemradio", name="Dark")).or_(
            page.get_by_role("radio", name="Dark")
        ).first.click()
        page.wait_for_function(dark)
        page.reload()
        settled(page, "Replay Explorer")
        page.wait_for_function(dark)


def test_guests_are_led_to_results_and_offered_nothing_that_is_off(page, quick, newer):
    newer.update_manifest(status_said="cancelled", created="2999-01-01T00:00:00+00:00")
    off = page.locator('[data-testid="stMain"] button[data-testid^="stBaseButton"]:disabled').filter(visible=True)
    with server(quick.root, page, REPLAY_READ_ONLY="1") as (url, _):
        page.goto(url)
        for path, heading in PAGES.items():
            turn(page, f"{url}/{'' if path == 'app.py' else Path(path).stem}")
            settled(page, heading)
            idle(page)
            expect(off).to_have_count(0)
            expect(page.get_by_text("REPLAY_READ_ONLY")).to_have_count(0)
            assert "run=" not in page.url or quick.id in page.url
        page.goto(url)  # another visitor, who has no run in hand
        page.get_by_role("link", name="Look at the influence").click()
        settled(page, "Influence")
        page.wait_for_url(re.compile(quick.id))
        expect(page.get_by_role("link", name="Set up a run")).to_have_count(0)


def test_behind_a_proxys_path_every_link_leads_below_it(page, two):
    """On pages that are full of links; the links of enlarged images are watched in test_browser."""
    older, _ = two
    full = ("app.py", "pages/Trust.py", "pages/Training_images.py", "pages/Glossary.py")
    with server(older.root, page, "--server.baseUrlPath", "replay") as (url, _):
        page.goto(url)
        for path in full:
            turn(page, f"{url}/{'' if path == 'app.py' else Path(path).stem}?run={older.id}")
            settled(page, PAGES[path])
            idle(page)
            expect(page.locator('[data-testid="stSidebar"] [data-testid="stPageLink"] a')).to_have_count(len(PAGES))
            addresses = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
            inside = [address for address in addresses if urlsplit(address).netloc == urlsplit(url).netloc]
            assert all(f"{each}/".startswith(f"{url}/") for each in inside), (path, inside)


def test_nothing_of_the_overview_is_cut(page, two):
    widths = "them => them.map(p => [p.innerText, p.scrollWidth > p.clientWidth])"
    with server(two[0].root, page) as (url, _):
        for width in (390, 1024):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(url)
            settled(page, "Replay Explorer")
            names = page.locator('[data-testid="stMain"] [data-testid="stPageLink"] p')
            expect(names.get_by_text("Influence")).to_have_count(2)
            assert not [(width, text) for text, cut in names.evaluate_all(widths) if cut]

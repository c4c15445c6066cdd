"""Bad data by each of the three ways of the page Data, in a real browser: each a message, and nothing is left."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from engine.runs import run as runs
from tests.app import server
from tests.helpers import idle, settled, tab_is_sound
from tests.images import folder
from tests.test_archives import LINK, tarred, zipped

pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)


def archives(root: Path) -> dict[str, str]:
    """Files to upload, and what is said of each."""
    pets = folder(root / "pets", {"cat": 3, "dog": 3})
    cut = tarred(pets, "w:gz")
    contents = {
        "link.zip": (zipped({"a/x.png": b"/etc/passwd"}, **LINK), "link.zip: a/x.png is a link or a device"),
        "up.zip": (zipped({"../evil.png": b"x"}), "up.zip: ../evil.png leads out of the archive"),
        "bomb.zip": (zipped({"a/x.bmp": b"\0" * (40 << 20)}), "bomb.zip grows beyond 17 MB"),
        "cut.tar.gz": (cut[: len(cut) // 2], "cut.tar.gz is damaged"),
        "text.zip": (b"no archive", "text.zip is no zip and no tar"),
        "loose.zip": (zipped({"x.png": b"1", "y.png": b"2"}), "has no class folders, only 2 images in none"),
        "<b>one</b>.zip": (zipped({"cat/x.png": b"1"}), "has no image that can be read"),
    }
    for name, (content, _) in contents.items():
        (root / name.replace("/", "⁄")).write_bytes(content)
    return {name.replace("/", "⁄"): said for name, (_, said) in contents.items()}


def names(root: Path) -> dict[str, str]:
    """Data sets by name, and what is said of each."""
    folder(root / "one", {"cat": 3})
    (root / "rows.csv").write_text("path,label\none/cat/000.png,A\none/cat/nowhere.png,B\n")
    (root / "columns.csv").write_text("file,class\none/cat/000.png,A\n")
    np.savez(root / "floats.npz", images=np.zeros((4, 8, 8)), labels=np.arange(4) % 2)
    os.mkfifo(root / "pipe.npz")
    return {
        f"folder:{root / 'one'}": "has only one class, «cat»",
        f"folder:{root / 'nowhere'}": "There is no folder",
        f"table:{root / 'rows.csv'}": "row 3 leads to no file: one/cat/nowhere.png",
        f"table:{root / 'columns.csv'}": "has no column path and no column label",
        f"arrays:{root / 'floats.npz'}": "images has the type float64, not uint8",
        f"arrays:{root / 'pipe.npz'}": "is no file",
    }


def refused(page: Page, said: str) -> None:
    add = page.get_by_role("button", name="Add", exact=True)
    expect(add).to_be_enabled()
    idle(page)
    add.click()
    expect(page.locator('[data-testid="stAlert"]').get_by_text(said, exact=False).first).to_be_visible()
    tab_is_sound(page)
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator('[data-testid="stAlert"]')).to_have_count(0)


def test_bad_data_end_in_a_message_by_upload_and_by_name(page, tmp_path, monkeypatch):
    data = tmp_path / "data"
    monkeypatch.setenv("REPLAY_DATA_DIR", str(data))
    with server(runs.outputs_root(tmp_path / "outputs"), page) as (url, _):
        page.goto(f"{url}/Data")
        settled(page, "Data")
        idle(page)
        page.get_by_text("An archive from yours").click()
        for name, said in archives(tmp_path).items():
            page.locator('input[type="file"]').set_input_files(tmp_path / name)
            expect(page.get_by_text(re.compile(re.escape(name[:12])))).to_be_visible()
            refused(page, said)
            page.get_by_role("button", name=re.compile("^Remove ")).click()  # else Add is that of the file before
            expect(page.get_by_role("button", name="Add", exact=True)).to_be_disabled()
        page.get_by_text("By its name").click()
        for name, said in names(tmp_path).items():
            field = page.get_by_role("textbox", name="Name", exact=True)
            field.fill(name)
            field.press("Enter")
            refused(page, said)
    left = [path for path in data.rglob("*") if path.parent.parent == data and not path.name.startswith(".lock-")]
    assert left == [], left
    assert not (tmp_path / "evil.png").exists() and zipfile.is_zipfile(tmp_path / "up.zip")

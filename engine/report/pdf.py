"""A report as PDF: what chromium, or another browser of its family, makes of the file where it is printed.

The browser is started by its words, no shell, with a profile of its own that is thrown away, and is told that no host
can be found: the report asks for nothing, and neither shall the browser. Its PDFs hold the time of their making; the
HTML is what is the same bytes each time.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.errors import ConfigError, StorageError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "chromium-headless-shell",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
)

PATIENCE = 600  # seconds; of a hundred pages a browser makes a PDF in a few


def browser() -> str:
    """The path of a browser that prints; `ConfigError` where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ConfigError(
            f"A PDF is made by a browser, and none of {', '.join(BROWSERS)} is here.",
            "Install one (on Debian: apt install chromium), or open the HTML file in any browser and print it.",
        )
    return found


def of(html: str) -> bytes:
    """The PDF of a report. Raises `ConfigError` where there is no browser, `StorageError` where it makes none."""
    command = [browser(), "--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-sync"]
    if os.geteuid() == 0:  # its sandbox refuses to be root's; the page has no script
        command.append("--no-sandbox")
    with tempfile.TemporaryDirectory(prefix="replay-report-", ignore_cleanup_errors=True) as folder:
        page, printed = Path(folder) / "report.html", Path(folder) / "report.pdf"
        page.write_text(html, encoding="utf-8")
        command += [f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}", page.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StorageError(f"The browser {command[0]} made no PDF ({type(error).__name__}).", PRINT) from error
        if not printed.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise StorageError(f"The browser {command[0]} made no PDF: {said[0][:300]}.", PRINT)
        return printed.read_bytes()


PRINT = "Open the HTML file in a browser and print it."

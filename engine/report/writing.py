"""A report as HTML, and as a file.

Every text is escaped by the template engine, in elements and in attributes (`autoescape`), and passes `visible.line`
on its way (`finalize`): no template and no caller has to remember either. What is markup already is one of two things:
this folder's style sheet, and drawings, which escape their own texts.
"""

from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from engine import files
from engine.errors import ConfigError, StorageError
from engine.report.content import Report
from engine.visible import UNSEEN, line

HERE = Path(__file__).parent

LONGEST = 10_000  # characters of one text: as long as a note may be

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def html(report: Report) -> str:
    """The whole file. Equal reports give equal texts."""
    return _template().render(report=report, policy=POLICY, style=_style())


@cache
def _style() -> Markup:
    return Markup((HERE / "report.css").read_text(encoding="utf-8"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html")


def _visible(value: object) -> object:
    """What an expression of the template gives: a text on one line, all of its signs to be seen."""
    return line(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """A text of several lines, as it is."""
    return escape("\n".join(UNSEEN.sub("\ufffd", each) for each in text.splitlines()))


# -- the file


def check_place(path: Path, force: bool) -> Path:
    """The file that is written, before anything is computed. Raises `ConfigError` for one that is there already (unless
    `force`), `StorageError` for a folder that is not, `ReadOnlyError` in read-only mode."""
    files.check_writable(path)
    path = Path(files.expanded(str(path))).absolute()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder.", f"Name a file, such as {path / 'report.html'}.")
    if not path.parent.is_dir():
        raise StorageError(f"There is no folder {path.parent}.", "Make it, or name a file in a folder that is there.")
    if not force and (path.exists() or path.is_symlink()):
        raise ConfigError(f"{path} is there already.", "Name another file, or write over it with --force.")
    return Path(path.parent.resolve(), path.name)


def write(path: Path, content: bytes) -> None:
    """Whole, or not at all."""
    try:
        files.replace(path, content)
    except StorageError as error:
        remedy = "Name a file in a folder that you may write." if not error.passing else error.remedy
        raise StorageError(error.what, remedy, error.passing) from error

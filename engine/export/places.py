"""Where an export is written: one file, a folder, or a zip. Whole or absent.

Names of members come from classes and files of other people. `safe` makes of each one component of a path that stands
where it is put on every system: no separator, no «..», nothing hidden, nothing that a shell, a spreadsheet or a browser
would take for a command, an option, a formula or a tag.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from engine import files, space
from engine.datasets.names import printable
from engine.errors import ConfigError, StorageError

ODD = re.compile(r"[\x00-\x1f\x7f-\x9f/\\:*?\"<>|&'`$;%#{}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # names of devices on Windows

LONGEST = 120  # bytes of a component: with a number before it and another behind, below the 255 of file systems

EPOCH = (1980, 1, 1, 0, 0, 0)  # of members of a zip: the same content makes the same bytes


def safe(text: str, without: str = "_") -> str:
    """`text` as one component of a path."""
    name = ODD.sub("_", printable(text)).strip(" .")
    name = re.sub(r"^[=+\-@~\uff1d\uff0b\uff0d\uff20]+", "_", name)
    while len(os.fsencode(name)) > LONGEST:
        name = name[:-1]
    name = name.rstrip(" .") or without
    return f"_{name}" if RESERVED.fullmatch(name) or name == "__MACOSX" else name


def safe_file(text: str, ending: str | None = None) -> str:
    """The last component of a path as the name of a file, with its ending or another one."""
    stem, own = os.path.splitext(text.replace("\\", "/").rsplit("/", 1)[-1])
    return safe(stem, "image") + (ending or re.sub(r"[^.a-z0-9]", "", own.lower())[:8])


class Distinct:
    """Gives names that are distinct also where capitals count for nothing."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, wanted: str) -> str:
        stem, ending = os.path.splitext(wanted)
        name, number = wanted, 2
        while name.casefold() in self._taken:
            name, number = f"{stem}-{number}{ending}", number + 1
        self._taken.add(name.casefold())
        return name


# -- the place


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """`files.disk_errors`, with the remedy for what somebody asked to have written."""
    try:
        with files.disk_errors(out):
            yield
    except StorageError as error:
        raise StorageError(
            error.what, "Free space, or name a place that can be written and has more.", passing=error.passing
        ) from error


def check(out: Path, size: int = 0) -> None:
    """Before anything is written. Raises `ConfigError` where `out` is there, or its folder is not, `StorageError` where
    that cannot be written or has no `size` bytes free, `ReadOnlyError` in read-only mode."""
    files.check_writable(out)
    shown = printable(str(out))
    try:
        os.lstat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown[:300]} is no name of a file ({said}).", "Name another one.") from None
    else:
        raise ConfigError(f"{shown} is there already, and is not replaced.", "Name another place, or move that away.")
    if not out.parent.is_dir():
        raise ConfigError(f"There is no folder {printable(str(out.parent))}.", "Make it, or name another place.")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise StorageError(f"{printable(str(out.parent))} cannot be written.", "Name a folder that can.")
    free = space.disk_free(out.parent)
    if free < size + space.RESERVE:
        raise StorageError(
            f"About {size / 1e6:,.1f} MB are to be written to {shown}, and its disk has {free / 1e6:,.1f} MB free.",
            "Free space, or name a place on a larger disk.",
        )


@contextlib.contextmanager
def _temporary(out: Path) -> Iterator[Path]:
    """A name beside `out`, which takes its place at the end, and is deleted where something went wrong before. What a
    killed process left of the same export goes first."""
    prefix = f"{files.TEMPORARY}{out.name[:100]}-"
    with contextlib.suppress(OSError):
        for left in out.parent.iterdir():
            if left.name.startswith(prefix) and time.time() - left.lstat().st_mtime > files.SWEEP_AFTER:
                _remove(left)
    temporary = out.parent / f"{prefix}{secrets.token_hex(4)}"
    try:
        yield temporary
        with disk_errors(out):
            if os.path.lexists(out):  # made meanwhile
                raise FileExistsError(17, "File exists", str(out))
            os.rename(temporary, out)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(temporary)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[BinaryIO]:
    """A file to be written from its beginning to its end."""
    with _temporary(out) as temporary, disk_errors(out):
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


class Tree(Protocol):
    """A folder to be filled, or a zip of one. Names are relative, with «/»; each is written once."""

    def write(self, name: str, content: bytes) -> None:
        """A file of this content."""
        ...

    def piecewise(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that is written piece by piece; no other is written meanwhile."""
        ...


class _Folder:
    def __init__(self, root: Path):
        self._root = root

    def write(self, name: str, content: bytes) -> None:
        with self._path(name).open("xb") as file:
            file.write(content)

    @contextlib.contextmanager
    def piecewise(self, name: str) -> Iterator[BinaryIO]:
        with self._path(name).open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def _path(self, name: str) -> Path:
        path = self._root / _relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Zip:
    """Images are compressed already: their bytes are stored; text is deflated."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive

    def write(self, name: str, content: bytes) -> None:
        self._archive.writestr(self._info(name, zipfile.ZIP_STORED), content)

    @contextlib.contextmanager
    def piecewise(self, name: str) -> Iterator[BinaryIO]:
        with self._archive.open(self._info(name, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as member:
            yield cast(BinaryIO, member)

    def _info(self, name: str, how: int) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(_relative(name), EPOCH)
        info.compress_type, info.external_attr = how, 0o644 << 16
        return info


def _relative(name: str) -> str:
    """The name, which the formats have made safe; one that leads out is a defect of theirs, and is not written."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\\" in name or "\0" in name:
        raise ConfigError(f"{printable(name)!r} is no name inside an export.", "Report this: it was not foreseen.")
    return name


@contextlib.contextmanager
def text(tree: Tree, name: str) -> Iterator[io.TextIOBase]:
    """A file of UTF-8 text in a tree, written piece by piece."""
    with tree.piecewise(name) as member:
        file = io.TextIOWrapper(member, encoding="utf-8", newline="\n", write_through=True)
        try:
            yield file
        finally:
            file.detach()  # whoever made the member closes it


def write_json(tree: Tree, name: str, value: object) -> None:
    tree.write(name, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


@contextlib.contextmanager
def new_tree(out: Path) -> Iterator[Tree]:
    """A folder; or, where `out` ends in .zip, an archive of what would be in it."""
    with _temporary(out) as temporary, disk_errors(out):
        if is_zip(out):
            with temporary.open("xb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    yield _Zip(archive)
                file.flush()
                os.fsync(file.fileno())
        else:
            temporary.mkdir()
            yield _Folder(temporary)

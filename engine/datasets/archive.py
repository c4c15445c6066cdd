"""A zip or tar of a folder of images, unpacked into the data folder: `unpack` returns the folder.

What is in an archive is not believed: names that lead outside, links, devices and encrypted members are refused or
left out, sizes are those that come out and not those that are announced, and the whole is streamed. A folder appears
when all of it is there, under a name made of the archive's SHA-256, so that the same archive is unpacked once: by one
process at a time (a lock), the others wait and find it.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from engine import files
from engine.datasets import store
from engine.datasets.names import printable
from engine.datasets.prepared import data_folder, disk_errors, locked, new_folder, remove
from engine.datasets.source import Progress, nothing, timed
from engine.errors import DataError, ReplayError, StorageError
from engine.space import RESERVE, disk_free

MOST_MEMBERS = 1_000_000  # files and folders

MOST_EXPANSION = 200  # bytes out for each byte of the archive; images hardly shrink

ALWAYS_ALLOWED = 16 << 20  # bytes out, whatever the archive's size: small folders of flat images shrink well

MOST_OF_A_FILE = 256 << 20

MOST_BYTES = 64 << 30

MOST_OF_A_HEADER = 4 << 20  # bytes that a tar's header may have: it is read whole

MOST_OF_A_DIRECTORY = 64 << 20  # bytes of a zip's directory, likewise: about half a million files

BLOCK = 1 << 20

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

BY_SYSTEMS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave, and nobody misses


BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Member:
    """A regular file of an archive, whose content `open` streams; or a folder, where there is no `open`."""

    name: str
    open: Callable[[], IO[bytes]] | None = None


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def unpack(file: IO[bytes], name: str, on_progress: Progress = nothing) -> Path:
    """Unpacks an archive, open for reading at its start, and returns the folder that holds the class folders.

    `name` is what a person calls it; progress counts bytes of the archive. Raises `DataError` for what is no
    archive, is damaged, leads outside, or is too large; `StorageError` where the disk is too small. Then nothing is
    left behind.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", Path(name).name.split(".")[0])[:40] or "archive"
    folder = data_folder() / "unpacked" / f"{stem}-{digest.hexdigest()[:16]}"
    if not _is_folder(folder):
        files.check_writable(folder)
        with locked(folder):
            if not _is_folder(folder):  # another may have unpacked it while we waited
                file.seek(0)
                with new_folder(folder) as temporary:
                    _unpack_into(temporary, file, size, name, on_progress)
    return _classes_in(folder)


def unpacked_from(place: Path) -> Path | None:
    """The folder that an archive was unpacked into, where `place` is it or is in it."""
    above = data_folder() / "unpacked"
    if not files.is_inside(above, place):
        return None
    return above / place.relative_to(above).parts[0]


def discard(place: Path) -> int:
    """Deletes what was unpacked into the folder that `unpack` returned, unless a data set is prepared from it, or it is
    none of an archive. Returns the bytes freed."""
    folder = unpacked_from(place)
    if folder is None or any(unpacked_from(Path(path)) == folder for path in store.prepared_places("folder")):
        return 0
    size = files.size_of(folder)
    with locked(folder), disk_errors(folder):
        remove(folder)
    return size


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _unpack_into(folder: Path, file: IO[bytes], size: int, name: str, on_progress: Progress) -> None:
    limit = min(MOST_BYTES, max(ALWAYS_ALLOWED, MOST_EXPANSION * size))
    report, written, count = timed(on_progress, size), 0, 0
    seen: set[str] = set()
    shown = printable(name)
    try:
        for member in _members(file, shown):
            count += 1
            if count > MOST_MEMBERS:
                raise DataError(f"{shown} has more than {MOST_MEMBERS:,} files.", "Unpack it, and use folder:DIR.")
            path = _inside(folder, member, seen, shown)
            if path is not None and member.open is None:
                with disk_errors(path):
                    path.mkdir(parents=True, exist_ok=True)
            elif path is not None:
                written = _write(path, member, written, limit, shown)
            report(min(size, file.tell()))
    except ReplayError:
        raise
    except Exception as error:  # what the readers of a damaged archive raise is not known: ValueError, struct.error, …
        said = str(error) or type(error).__name__
        raise DataError(f"{shown} is damaged, or of a kind that cannot be read ({said}).", "Pack it again.") from None
    if not count:
        raise DataError(f"{shown} is empty.", "Pack a folder that has one folder for each class.")


def _members(file: IO[bytes], shown: str) -> Iterator[Member]:
    """Regular files and folders; `DataError` for links, devices and encrypted files."""
    if zipfile.is_zipfile(file):
        if _directory_size(file) > MOST_OF_A_DIRECTORY:
            raise DataError(f"{shown} names too many files.", "Unpack it yourself, and use folder:DIR.")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if info.is_dir():
                    yield Member(info.filename)
                    continue
                if kind not in (0, stat.S_IFREG):
                    raise _refused(shown, info.filename, "is a link or a device")
                if info.flag_bits & 1:
                    raise _refused(shown, info.filename, "is encrypted")
                yield Member(info.filename, partial(archive.open, info))
        return
    file.seek(0)
    stream = _Stream(file)
    try:
        archive = tarfile.TarFile(fileobj=stream, mode="r")  # type: ignore[arg-type]
    except tarfile.ReadError:
        remedy = f"Pack the folder as one of {', '.join(SUFFIXES)}."
        raise DataError(f"{shown} is no zip and no tar.", remedy) from None
    with archive:
        while (info := archive.next()) is not None:
            vars(archive)["members"].clear()  # it would remember all of them
            if info.isdir():
                yield Member(info.name)
                continue
            if not info.isreg():
                raise _refused(shown, info.name, "is a link or a device")
            content = archive.extractfile(info)
            if content is not None:
                yield Member(info.name, partial(_itself, content))
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # to tarfile, a damaged header is an end, too
            raise tarfile.ReadError("it ends before its end")
        for _ in range(MOST_OF_A_HEADER // BLOCK):  # up to the checksum of what is compressed
            stream.read(BLOCK)


def _itself(content: IO[bytes]) -> IO[bytes]:
    return content


class _Stream:
    """A tar's bytes, decompressed, for `tarfile`: which reads whole the headers whose size the archive says."""

    def __init__(self, file: IO[bytes]):
        magic = file.read(6)
        file.seek(0)
        kinds: dict[bytes, Callable] = {
            b"\x1f\x8b": lambda f: gzip.GzipFile(fileobj=f, mode="rb"),
            b"BZh": bz2.BZ2File,
            b"\xfd7zXZ\x00": lzma.LZMAFile,
        }
        opener = next((opener for start, opener in kinds.items() if magic.startswith(start)), None)
        self._stream = file if opener is None else opener(file)
        self.tell, self.seek, self.name = self._stream.tell, self._stream.seek, ""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_OF_A_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        try:
            return self._stream.read(size)
        except BROKEN as error:
            raise tarfile.ReadError(str(error)) from error


def _directory_size(file: IO[bytes]) -> int:
    """Bytes of a zip's directory, as its end record says (APPNOTE 4.3.14 and 4.3.16)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 128))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    announced = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if announced == 0xFFFFFFFF:
        large = tail.rfind(b"PK\x06\x06")
        announced = int.from_bytes(tail[large + 40 : large + 48], "little") if large >= 0 else announced
    return announced


def _inside(folder: Path, member: Member, seen: set[str], shown: str) -> Path | None:
    """Where a member is written; None for what file managers leave, and for the folder that is packed itself."""
    name = member.name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if not parts and member.open is None and name.strip("./") == "":
        return None
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise _refused(shown, name, "leads out of the archive")
    if any(part in BY_SYSTEMS or part.startswith("._") for part in parts):
        return None
    try:
        too_long = any(len(os.fsencode(part)) > 255 for part in parts) or len(parts) > 32
    except UnicodeEncodeError:
        too_long = True
    if too_long:
        raise _refused(shown, name, "has a name that no disk holds")
    key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
    above = key.split("/")
    is_folder = member.open is None
    folders = {"/".join(above[:i]) + "/" for i in range(1, len(above) + is_folder)}
    if any(folder[:-1] in seen for folder in folders) or (not is_folder and (key in seen or f"{key}/" in seen)):
        raise _refused(shown, name, "stands in it twice, or below a file (capitals do not tell names apart)")
    seen |= folders if is_folder else folders | {key}
    return folder.joinpath(*parts)


def _write(path: Path, member: Member, written: int, limit: int, shown: str) -> int:
    """Streams one file, and returns the bytes that are written by now."""
    assert member.open is not None, "a folder has no content"
    with member.open() as source, disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        with path.open("xb") as sink:
            while True:
                try:
                    block = source.read(BLOCK)
                except OSError as error:
                    raise _refused(shown, member.name, f"is damaged ({error})") from None
                if not block:
                    break
                size += len(block)
                if size > MOST_OF_A_FILE:
                    raise _refused(shown, member.name, f"has more than {MOST_OF_A_FILE >> 20} MiB")
                if written + size > limit:
                    raise DataError(
                        f"{shown} grows beyond {limit / 1e6:,.0f} MB when it is unpacked, as an archive of images "
                        "does not.",
                        "Unpack it yourself if you trust it, and use folder:DIR.",
                    )
                if disk_free(path.parent) < len(block) + RESERVE:
                    raise StorageError(
                        f"No space left to unpack {shown}.", "Free space, or set REPLAY_DATA_DIR to a larger disk."
                    )
                sink.write(block)
    return written + size


def _classes_in(folder: Path) -> Path:
    """Below folders that hold one folder and nothing else: archives are often made of the folder itself."""
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() == "train":
            return folder
        if not any(below.is_dir() for below in inside[0].iterdir()):
            return folder
        folder = inside[0]


def _refused(shown: str, name: str, problem: str) -> DataError:
    return DataError(
        f"{shown}: {printable(name)[:300]} {problem}.",
        "Pack plain files, in one folder for each class.",
    )

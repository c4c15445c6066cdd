"""A folder of images: ROOT/CLASS/*.png, or ROOT/train/CLASS/*.png beside ROOT/test (or val).

    folder:DIR?side=64&fit=crop&ground=white&color=auto&test=0.2&seed=0

A folder `train` that holds folders and no images is a split; else it is a class. Where there is no test split, a
fraction of each class is for testing. Links, folders below a class and files without an image's extension are not
read; they are listed with the data set's problems.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.datasets import archive, store
from engine.datasets.base import Dataset
from engine.datasets.builder import Builder
from engine.datasets.decode import EXTENSIONS
from engine.datasets.decoding import decode_items
from engine.datasets.names import DatasetName, absolute, canonical, image_options, printable
from engine.datasets.source import TESTS, ChangedError, Item, Progress, Stamp, class_order, digests_of, read, split_of
from engine.errors import DataError


@dataclass(frozen=True)
class Listing:
    """What a folder holds, without a look into any file. `members`: split («» where there are none) and class of
    each stamp; `noticed`: kind, path and detail of what is not read."""

    stamps: tuple[Stamp, ...]
    members: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    noticed: tuple[tuple[str, str, str], ...]
    digest: str  # of every name that was seen, and what stands there


class ImageFolder:
    """The `Source` of a folder."""

    def __init__(self, name: DatasetName):
        self.options = image_options(name)
        self.place = self.root = absolute(name.place)
        self.name = canonical(name)
        self.title = _title(self.root)
        self.description = f"Folder {self.root}"
        listing = scan(self.root)
        self.stamps: Sequence[Stamp] = listing.stamps
        self.listing, self.quick = digests_of(listing.stamps, listing.digest)
        self._listing = listing

    def write(self, builder: Builder, on_progress: Progress) -> None:
        listing = self._listing
        builder.classes = list(listing.classes)
        for kind, file, detail in listing.noticed:
            builder.problem(kind, file, detail)
        numbers = {name: number for number, name in enumerate(listing.classes)}
        labels = [numbers[name] for _, name in listing.members]
        splits = split_of([split for split, _ in listing.members], labels, self.options, builder)
        items = [
            Item(split, label, stamp.path, partial(read, self.root, stamp))
            for stamp, split, label in zip(listing.stamps, splits, labels, strict=True)
        ]
        decode_items(builder, items, self.options, on_progress)


def _title(root: Path) -> str:
    """The folder's name; of what was unpacked, that of the archive, without its digest."""
    name = root.name or str(root)
    return name.rpartition("-")[0] if archive.unpacked_from(root) == root else name


# -- listing


def scan(root: Path) -> Listing:
    """Lists a folder of images. Raises `DataError` where it is none, or has no classes."""
    if os.path.isfile(root):
        raise DataError(
            f"{printable(str(root))} is a file, not a folder of images.",
            "Unpack it and name the folder, or drag it onto the page Data."
            if archive.is_archive(root.name)
            else "Name the folder that has one folder a class, or write table:FILE or arrays:FILE.npz.",
        )
    if not os.path.isdir(root):
        raise DataError(
            f"There is no folder {printable(str(root))}.",
            "Correct the path; it is one on the machine that the engine runs on.",
        )
    look = _Look(root)
    top, loose = look.folder("")
    layout = _splits(look, top)
    for path in loose:
        look.note("no class", path, "stands beside the class folders, in none of them")
    members: list[tuple[str, str, Stamp]] = []
    classes: set[str] = set()
    for split, prefix in layout:
        folders, files = (top, ()) if not prefix else look.folder(prefix)
        for path in files:
            look.note("no class", path, "stands beside the class folders, in none of them")
        for folder in folders:
            below, images = look.folder(folder)
            for path in below:
                look.note("nested folder", path, "is a folder below a class, and is not looked into")
            name = os.path.basename(folder)
            classes.add(name)
            members += [(split, name, look.stamps[path]) for path in images]
    if not members:
        raise _no_classes(root, look, loose, bool(classes))
    look.summarise()
    members.sort(key=lambda member: (member[0] != "train", os.fsencode(member[2].path)))
    return Listing(
        tuple(stamp for _, _, stamp in members),
        tuple((split, name) for split, name, _ in members),
        tuple(sorted(classes, key=class_order(classes))),
        tuple(look.noticed),
        look.digest(),
    )


def _splits(look: "_Look", top: list[str]) -> list[tuple[str, str]]:
    """Split and folder of each part; one without a name where the folder holds its classes itself."""
    if "train" not in top:
        return [("", "")]
    below, images = look.folder("train")
    if images or not below:
        return [("", "")]
    tests = [name for name in TESTS if name in top]
    for name in top:
        if name != "train" and name not in tests[:1]:
            look.note("ignored", name, "is a folder beside train and test, and is not looked into")
    return [("train" if tests else "", "train"), *(("test", name) for name in tests[:1])]


def _no_classes(root: Path, look: "_Look", loose: Sequence[str], classes: bool) -> DataError:
    shown = printable(str(root))
    nested = next((path for kind, path, _ in look.noticed if kind == "nested folder"), None)
    if nested is not None:
        inner = printable(os.path.dirname(nested))
        return DataError(
            f"The class folders of {shown} hold folders and no images.",
            f"Name the folder whose folders are the classes, perhaps {shown}/{inner}.",
        )
    if classes:
        links = sum(kind == "link" for kind, _, _ in look.noticed)
        said = f" ({links:,} links are not followed)" if links else ""
        return DataError(
            f"The class folders of {shown} hold no images{said}.",
            f"Put images there: files that end in {', '.join(sorted(EXTENSIONS))}.",
        )
    images = f", only {len(loose):,} image{'' if len(loose) == 1 else 's'} in none" if loose else ""
    return DataError(
        f"{shown} has no class folders{images}.", "Make one folder for each class, and put its images there."
    )


class _Look:
    """Reads folders once each, and remembers all that it saw."""

    def __init__(self, root: Path):
        self.root = root
        self.stamps: dict[str, Stamp] = {}
        self.noticed: list[tuple[str, str, str]] = []
        self._seen: dict[str, tuple[list[str], list[str]]] = {}
        self._endings: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._digest = hashlib.sha256()

    def note(self, kind: str, path: str, detail: str) -> None:
        self.noticed.append((kind, path, detail))

    def folder(self, path: str) -> tuple[list[str], list[str]]:
        """Paths of the folders and of the image files in a folder, in the order of their bytes."""
        if path in self._seen:
            return self._seen[path]
        folders: list[str] = []
        images: list[str] = []
        try:
            with os.scandir(os.path.join(self.root, path)) as entries:
                for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                    self._entry(entry, os.path.join(path, entry.name), folders, images)
        except FileNotFoundError as error:
            raise ChangedError(
                f"{printable(str(error.filename or path))} went away while the folder was being listed.",
                "Wait until nothing writes to the folder, and load it again.",
            ) from None
        except OSError as error:
            if not path:
                raise DataError(
                    f"{printable(str(self.root))} cannot be listed ({error.strerror}).", "Make it readable."
                ) from None
            self.note("unreadable", path, f"the folder cannot be listed ({error.strerror})")
        self._seen[path] = folders, images
        return folders, images

    def _entry(self, entry: os.DirEntry, path: str, folders: list[str], images: list[str]) -> None:
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        self._digest.update(os.fsencode(f"{path}\0{kind}\n"))
        if kind == stat.S_IFLNK:
            self.note("link", path, "is a link, and is not followed")
        elif kind == stat.S_IFDIR:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                self.note("ignored", path, "is a hidden folder")
            else:
                folders.append(path)
        elif kind != stat.S_IFREG:
            self.note("no file", path, "is no regular file, and is not opened")
        elif (ending := os.path.splitext(entry.name)[1].lower()) in EXTENSIONS and not entry.name.startswith("."):
            self.stamps[path] = Stamp(path, status.st_size, status.st_mtime_ns)
            images.append(path)
        else:
            self._endings[ending] += 1
            self._first.setdefault(ending, path)

    def summarise(self) -> None:
        """One line for all files of one ending that no image has."""
        for ending, count in sorted(self._endings.items()):
            what = (
                f"end in {ending}"
                if ending not in EXTENSIONS and ending
                else "have no ending of an image or are hidden"
            )
            self.note("ignored", self._first[ending], f"the first of {count:,} files that {what}")

    def digest(self) -> str:
        return self._digest.hexdigest()


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    return store.load(ImageFolder(name), on_progress)

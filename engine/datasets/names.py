"""What a data set is called: `fashion-mnist`, or `KIND:PLACE?option=value&…`.

    folder:/data/pets?side=64&fit=pad&ground=black
    table:labels.csv?root=/data/images
    arrays:digits.npz?test=0.1&seed=3
    torchvision:CIFAR10
    hf:/data/saved?side=32
    saved:outputs/RUN/data
    corrected:photos-0123456789ab

The same text stands in a configuration, on the command line and in `engine.datasets.registry.load`. Options follow
the last `?` where what follows reads `word=value&word=value`; values are percent-encoded (`%26` for an ampersand). A
path that itself ends like that takes one more `?`, which names no options.
"""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import quote, unquote

from engine.errors import ConfigError

NAME = re.compile(r"(?P<kind>[a-z][a-z0-9-]*):(?P<rest>.*)", re.DOTALL)

OPTIONS = re.compile(r"(?P<place>.*)\?(?P<options>(?:\w+=[^&?]*(?:&\w+=[^&?]*)*)?)", re.DOTALL)

FITS = {
    "crop": "the shorter side fills the image, the middle of the longer one stays",
    "pad": "all of it stays, with the ground beside it",
    "stretch": "all of it stays, with its proportions changed",
}

COLOURS = ("auto", "grey", "rgb")

GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}

PATHS = {"folder": ("",), "table": ("", "root"), "arrays": ("",), "torchvision": ("root",), "saved": ("",)}
"""Of each kind, what is a path: the place («»), and options. The place of hf is one where there is such a folder."""

OWN = {
    "folder": (),
    "arrays": (),
    "table": ("root",),
    "torchvision": ("root", "split"),
    "hf": ("image", "label"),
    "saved": (),
    "corrected": (),
}
"""Of each kind, the options beside those of `ImageOptions`."""

SMALLEST_SIDE, LARGEST_SIDE = 4, 1024


@dataclass(frozen=True)
class DatasetName:
    """A parsed name; `str()` of it parses to an equal value. `kind` is empty for a data set of the registry's own."""

    kind: str
    place: str
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "DatasetName":
        """Raises `ConfigError` for an option that is named twice, for a name that no file could hold, or for an
        empty place."""
        match = NAME.fullmatch(text)
        if match is None:
            return cls("", text)
        place, options = match["rest"], []
        if (with_options := OPTIONS.fullmatch(place)) is not None:
            place = with_options["place"]
            options = [part.partition("=")[::2] for part in with_options["options"].split("&") if part]
        if not place:
            raise name_error(text, f"names no place: write {match['kind']}:PLACE")
        if "\0" in place or not _encodes(place):
            raise name_error(text, "has a place that is no text of UTF-8; rename the folder")
        if len({key for key, _ in options}) < len(options):
            raise name_error(text, "has an option twice")
        return cls(match["kind"], place, tuple((key, unquote(value)) for key, value in options))

    def __str__(self) -> str:
        if not self.kind:
            return self.place
        options = "&".join(f"{key}={quote(value, safe='/:,.#x ')}" for key, value in self.options)
        mark = "?" if options or OPTIONS.fullmatch(self.place) else ""
        return f"{self.kind}:{self.place}{mark}{options}"


@dataclass(frozen=True)
class ImageOptions:
    """How files become images of one kind, and which of them are for testing.

    `side`: pixels, «64» or «96x64» (width × height); empty: chosen from the files. `fit`: see `FITS`. `ground`: white,
    black, grey or «#rrggbb», under transparent parts and beside padded ones. `color`: grey, rgb, or auto, which
    looks at the files. `test`: the fraction of each class that is for testing where the data have no test split of
    their own, drawn by `seed`.
    """

    side: str = ""
    fit: str = "crop"
    ground: str = "white"
    color: str = "auto"
    test: float = 0.2
    seed: int = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels, or None where they are chosen from the files."""
        if not self.side:
            return None
        width, _, height = self.side.partition("x")
        return int(width), int(height or width)

    @property
    def ground_rgb(self) -> tuple[int, int, int]:
        if self.ground in GROUNDS:
            return GROUNDS[self.ground]
        red, green, blue = bytes.fromhex(self.ground.removeprefix("#"))
        return red, green, blue


DEFAULTS = ImageOptions()


def image_options(name: DatasetName, further: tuple[str, ...] = ()) -> ImageOptions:
    """The options of a name, checked; `further` names those that its loader reads itself.

    Raises `ConfigError` that names each option at fault.
    """
    options = {key: value for key, value in name.options if key not in further}
    known = [field.name for field in fields(ImageOptions)]
    problems = [
        f"has no option {key}; there are {', '.join((*known, *further))}" for key in options if key not in known
    ]
    values: dict = {key: value for key, value in options.items() if key in known}
    for key, value in values.items():
        if (problem := _problem(key, value)) is not None:
            problems.append(f"option {key} {problem}, not «{value[:40]}»")
    if problems:
        raise name_error(str(name), "; ".join(problems))
    for key, kind in (("test", float), ("seed", int)):
        if key in values:
            values[key] = kind(values[key])
    return ImageOptions(**values)


def absolute(place: str) -> Path:
    """A place of a data set's name, from the folder where the process runs."""
    return Path(os.path.abspath(os.path.expanduser(place)))


def canonical(name: DatasetName) -> str:
    """The one text of a name: absolute paths, and those options alone that are not the defaults, in a fixed order.

    Raises `ConfigError` for options of `ImageOptions` that are out of range.
    """
    paths = PATHS.get(name.kind, ())
    is_path = "" in paths or (name.kind == "hf" and os.path.isdir(absolute(name.place)))
    place = str(absolute(name.place)) if is_path else name.place
    known = [field.name for field in fields(ImageOptions)]
    further = OWN.get(name.kind, tuple(key for key, _ in name.options if key not in known))
    own = {key: value for key, value in name.options if key in further and value}
    own = {key: str(absolute(own[key])) if key in paths else own[key] for key in sorted(own)}
    if name.kind == "table" and own.get("root") == os.path.dirname(place):
        del own["root"]
    options = image_options(name, further)
    changed = [(key, f"{getattr(options, key)}") for key in known if getattr(options, key) != getattr(DEFAULTS, key)]
    return str(DatasetName(name.kind, place, (*changed, *own.items())))


def name_error(text: str, problem: str) -> ConfigError:
    return ConfigError(
        f"The data set «{printable(text[:200])}» {problem}.",
        "Correct its name; docs/data.md lists kinds and options.",
        {"dataset": problem},
    )


def printable(text: str) -> str:
    """A name from the disk as text that every page and file can hold: bytes that are no UTF-8, and characters that
    control a terminal or the direction of writing, are written as escapes; all others stand as they are."""
    if not any(map(_is_control, text)):
        return text
    return "".join(_escaped(character) if _is_control(character) else character for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _is_control(character: str) -> bool:
    code = ord(character)
    return (
        code < 32
        or 127 <= code < 160
        or 0xD800 <= code <= 0xDFFF
        or code in (0x200E, 0x200F, 0x2028, 0x2029)
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
    )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(key: str, value: str) -> str | None:
    if key == "side" and value:
        sides = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", value)
        if sides is None or not all(
            SMALLEST_SIDE <= int(side) <= LARGEST_SIDE for side in sides.groups() if side is not None
        ):
            return f"must be «64» or «96x64», each from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
    if key == "fit" and value not in FITS:
        return f"must be one of {', '.join(FITS)}"
    if key == "ground" and value not in GROUNDS and not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return f"must be one of {', '.join(GROUNDS)} or «#rrggbb»"
    if key == "color" and value not in COLOURS:
        return f"must be one of {', '.join(COLOURS)}"
    if key == "test" and not (re.fullmatch(r"0?\.[0-9]{1,6}", value) and 0 < float(value) < 1):
        return "must be a fraction above 0 and below 1, such as 0.2"
    if key == "seed" and not (re.fullmatch(r"[0-9]{1,10}", value) and int(value) < 2**31):
        return "must be a whole number from 0 to 2147483647"
    return None

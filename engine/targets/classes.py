"""Classes as people name them: by number, or by name without regard to case. No torch.

4            the class of that number
coat         the class of that name: as it is written, else the only one that differs in nothing but case
"4"          the class of that name, whatever it holds: quotes take commas, `>` and digits for what they are; a
             quote inside is written twice
"""

import difflib
import re
import unicodedata
from collections.abc import Sequence

from engine.errors import ConfigError

NUMBER = re.compile("0|[1-9][0-9]{0,4}")
NEEDS_QUOTES = re.compile(r'[,">]|^\s|\s$|^[0-9]+(-[0-9]+)?$|^$')

LISTED = 10  # names of classes in an error
LONGEST = 80  # characters of a text in an error


def class_named(text: str, classes: Sequence[str]) -> int:
    """The number of the class that a person names. Raises `ConfigError` for none, or for one of several."""
    number = find_class(text, classes)
    if number is not None:
        return number
    near = difflib.get_close_matches(_plain(text), [_plain(name) for name in classes], 1)
    likely = next((name for name in classes if _plain(name) in near), None)
    shown = text.strip() if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    names = ", ".join(map(spelled, classes[:LISTED])) + (", …" if len(classes) > LISTED else "")
    remedy = f"The classes are {names}, or 0 to {len(classes) - 1} by number."
    raise ConfigError(
        f"There is no class «{shown}».",
        f"Did you mean {spelled(likely)}? {remedy}" if likely is not None else remedy,
        {"targets": f"names the class «{shown}», which is not there"},
    )


def find_class(text: str, classes: Sequence[str]) -> int | None:
    """`class_named`, or None where no class has this name. A number need not be that of a class."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        return int(text)
    name = text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
    if name in classes:
        return list(classes).index(name)
    alike = [number for number, each in enumerate(classes) if _plain(each) == _plain(name)]
    if len(alike) > 1:
        names = " and ".join(spelled(classes[number]) for number in alike)
        raise ConfigError(
            f"«{name}» may be one of several classes: {names}.",
            f"Write it as it is, or by number: {' or '.join(map(str, alike))}.",
            {"targets": f"«{name}» may be one of several classes"},
        )
    return alike[0] if alike else None


def spelled(name: str) -> str:
    """A class's name as `find_class` takes it."""
    return '"' + name.replace('"', '""') + '"' if NEEDS_QUOTES.search(name) else name


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """The parts of a text between separators, one character each, that stand in no double quotes."""
    parts, quoted = [""], False
    for character in text:
        quoted ^= character == '"'
        if character == separator and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()

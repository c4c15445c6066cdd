"""A configuration as one TOML file: the form downloads and takes it, `--config` reads it, `engine config` writes it.

    dumps : RunConfig -> text        every setting under its section, with what it is, its range and its default
    loads : text -> RunConfig        `loads(dumps(config)) == config`

Sections and names follow from the fields of `RunConfig` and `Recipe`, comments from the tables of `engine.config`, so
that a field that comes is in the file by itself. Names are those of `--set`. A file need not name every setting: what
it leaves out has its default. The file holds no more than the command line could say: it is text, never code.

Not for runs on disk: config.json has a schema and is migrated; a TOML file is read as this version understands it.
"""

import dataclasses
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import engine
from engine import config as configs
from engine.config import Choice, Notation, Range, Recipe, RunConfig
from engine.errors import ConfigError

LARGEST = 1 << 18  # bytes of a file: twenty thousand targets; a parser of more would take seconds

DEEPEST = 3  # arrays within arrays, of a setting

PLACES = {
    "preset": "",
    "dataset": "data",
    "targets": "targets",
    "target_function": "targets",
    "window": "targets",
    "device": "machine",
    "precision": "machine",
}
"""Sections of fields of `RunConfig`; others that decide a training stand in [model], and the rest in [replay]."""

SECTIONS = {
    "": "",
    "data": "What is learned from, and explained.",
    "model": "What learns.",
    "recipe": "How it is trained.",
    "targets": "What is asked.",
    "replay": "How the training is replayed.",
    "machine": "What computes.",
}

ABOUT = {
    "preset": "Name of these settings, which becomes a part of the run's name.",
    "targets": "Targets, such as test:3 (a test image), class:2 (the test images of a class), test:all.",
}

REMEDY = "Correct the file; python -m engine config prints one with every setting."


def settings() -> Iterator[tuple[str, str, str]]:
    """(section, key, dotted name as in `RANGES`) of every setting, in the order of the sections: of the file, and of
    the form."""
    fields = [each.name for each in dataclasses.fields(RunConfig) if each.name != "recipe"]
    section_of = {name: PLACES.get(name, "model" if name in configs.TRAINING else "replay") for name in fields}
    for section in SECTIONS:
        if section == "recipe":
            yield from (("recipe", each.name, f"recipe.{each.name}") for each in dataclasses.fields(Recipe))
        yield from ((section, name, name) for name in fields if section_of[name] == section)


def _entry(name: str) -> Any:
    """What one of the tables of `engine.config` says of a setting; None where none does."""
    tables = (configs.RANGES, configs.CHOICES, configs.FLAGS, configs.LISTS, configs.TEXTS)
    return next((table[name] for table in tables if name in table), None)


# -- writing


def dumps(config: RunConfig) -> str:
    """The configuration as TOML, each setting with a comment. Raises `ConfigError` where a value has no such text."""
    default = RunConfig()
    lines = [
        f"# A run of Replay Explorer {engine.__version__}: python -m engine run --config FILE",
        "# What is left out has its default.",
    ]
    section = ""
    for place, key, name in settings():
        if place != section:
            section = place
            lines += ["", "", f"[{section}]  # {SECTIONS[section]}"]
        lines += ["", *_comment(name, configs.get(config, name), configs.get(default, name))]
        lines.append(f"{key} = {_toml(name, configs.get(config, name), wrap=True)}")
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def _comment(name: str, value: object, default: object) -> list[str]:
    mark = ", as here" if value == default else ""
    text = printable(f"{about(name)} Default: {_toml(name, default)}{mark}.")
    return textwrap.wrap(
        text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def what(name: str) -> str:
    """What a setting is, in a sentence."""
    entry = _entry(name)
    return entry if isinstance(entry, str) else ABOUT.get(name, "") if entry is None else entry.what


def about(name: str) -> str:
    """What a setting is and what it may be, in sentences."""
    entry = _entry(name)
    if isinstance(entry, Range):
        kind = "A whole number from" if entry.kind is int else "From"
        return f"{entry.what} {kind} {_number(entry.low)} to {_number(entry.high)}."
    if isinstance(entry, Choice):
        return f"{entry.what} By name: {', '.join(entry.names)}."
    if isinstance(entry, str):
        return f"{entry} One of true, false."
    if isinstance(entry, Notation):
        return f"{entry.what} In quotes it is written {entry.form}."
    return ABOUT[name] if entry is None else entry.what


def _number(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() and abs(number) < 1e15 else f"{number:g}"


def _toml(name: str, value: Any, wrap: bool = False) -> str:
    """One value. `wrap` writes a long array on several lines."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(name, value)
    if isinstance(value, tuple | list):
        if _has_none(value):  # TOML has no such value; the notation of the command line leaves it out
            return _string(name, _entry(name).write(value))
        parts = [_toml(name, part) for part in value]
        row = f"[{', '.join(parts)}]"
        if not wrap or len(row) <= 100:
            return row
        return "\n".join(["[", *(f"    {part}," for part in parts), "]"])
    raise ConfigError(f"{name} is a {type(value).__name__}, which TOML cannot say.", "Name a number, a text or a list.")


def _has_none(value: Any) -> bool:
    return value is None or (isinstance(value, tuple | list) and any(map(_has_none, value)))


def _string(name: str, text: str) -> str:
    if re.search("[\ud800-\udfff]", text):
        raise ConfigError(
            f"{name} holds a name that is not UTF-8, {ascii(text[:80])}, which no TOML file can say.",
            "Rename the folder or file, or start the run from the command line without a file.",
        )
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes, and the one that it lacks


# -- reading


def read(path: str | Path) -> RunConfig:
    """The configuration of a file. Raises `ConfigError` where it cannot be read, or is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} cannot be read ({reason}).", "Name a TOML file that you may read.") from error
    return loads(content, str(path))


def loads(content: str | bytes, where: str = "The TOML file") -> RunConfig:
    """The configuration that a text says; `where` names it in errors.

    Every name, type and range is judged, all faults in one `ConfigError`. Only what targets and target functions name
    is left to `engine.config.check`, for that takes the data set.
    """
    tables = _parse(content, where)
    values, at_fault = _values(tables)
    if not at_fault:
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("recipe.")}
        outer = {name: value for name, value in values.items() if not name.startswith("recipe.")}
        config = RunConfig(**outer, recipe=Recipe(**inner))
        at_fault = {
            name: problem
            for name, problem in configs.problems(config).items()
            if name not in ("targets", "target_function")
        }
        if not at_fault:
            return config
    listed = "; ".join(f"{name} {problem}" for name, problem in list(at_fault.items())[:5])
    more = f"; and {len(at_fault) - 5:,} more" if len(at_fault) > 5 else ""
    raise ConfigError(f"{where} is not a configuration: {listed}{more}.", REMEDY, at_fault)


def _parse(content: str | bytes, where: str) -> dict[str, Any]:
    size = len(content)
    if size > LARGEST:
        raise ConfigError(f"{where} has more than {LARGEST:,} bytes, too many for a configuration.", REMEDY)
    try:
        text = content.decode() if isinstance(content, bytes) else content
        return tomllib.loads(text.removeprefix("\ufeff"))  # the mark that Windows' editors put first
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 at byte {error.start:,}.", "Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {str(error)[:200]}.", REMEDY) from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, dates of no calendar; `[[[[[[…`
        raise ConfigError(
            f"{where} is not TOML: it has a number out of bounds, or is nested too deep.", REMEDY
        ) from None


def _values(tables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by dotted name, and what is wrong by the name as it is written."""
    names = {(section, key): name for section, key, name in settings()}
    values, at_fault = {}, {}
    for section, key, value in _written(tables):
        if key is None:
            at_fault[_short(section)] = "must be a section" if section in SECTIONS else _unknown("", section)
        elif (section, key) not in names:
            at_fault[_short(f"{section}.{key}" if section else key)] = _unknown(section, key)
        else:
            name = names[section, key]
            values[name], problem = _value(name, value)
            if problem:
                at_fault[name] = problem
    return values, at_fault


def _written(tables: Mapping[str, Any]) -> Iterator[tuple[str, str | None, Any]]:
    """(section, key, value) of what a file says; key None where there is no such section, or it is none."""
    for top, value in tables.items():
        if top in SECTIONS and isinstance(value, dict):
            yield from ((top, key, inner) for key, inner in value.items())
        elif top in SECTIONS or isinstance(value, dict):
            yield top, None, value
        else:
            yield "", top, value


def _unknown(section: str, key: str) -> str:
    """What to say of a name that there is not: where it stands, or the nearest that there is."""
    places = {name: place for place, name, _ in settings()}
    if key in places:
        return f"stands in [{places[key]}]" if places[key] else "stands at the top, before every section"
    nearest = difflib.get_close_matches(key[:80], [*places, *filter(None, SECTIONS)], 1)
    if not nearest:
        return "is not known"
    place = f"[{nearest[0]}]" if nearest[0] not in places else nearest[0]
    inside = places.get(nearest[0], section)
    return f"is not known; did you mean {place}{f' in [{inside}]' if inside != section and inside else ''}?"


def _value(name: str, value: Any) -> tuple[Any, str | None]:
    """The value as the field has it, and what is wrong with its type. Ranges are judged by `engine.config`."""
    default, entry = configs.get(RunConfig(), name), _entry(name)
    if not _plain(value):
        return None, "must be a number, a text, true or false, or a list of such"
    if name == "targets":
        if not isinstance(value, list) or not all(isinstance(target, str) for target in value):
            return None, 'must be a list of texts, such as ["test:0", "class:3"]'
        return tuple(value), None
    if isinstance(entry, Range) and entry.kind is float and type(value) is int:
        return float(value), None  # `width = 1`: 1 and 1.0 would have two digests
    if isinstance(entry, Notation):
        return (entry.read(value) if isinstance(value, str) else _tuple(value)), None
    if isinstance(value, list):
        return None, "must be one value, not a list"
    if isinstance(default, str) and not isinstance(value, str):
        return None, f"must be a text in quotes, not {value!r}"
    return value, None


def _tuple(value: Any) -> Any:
    """Arrays as fields have them: tuples, their numbers floats. Any other value is itself."""
    if isinstance(value, list):
        return tuple(map(_tuple, value))
    return float(value) if type(value) is int else value


def _plain(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value is of the kinds that settings have: no tables, no dates, whole numbers of 64 bits as TOML's."""
    if isinstance(value, list):
        return depth > 0 and all(_plain(part, depth - 1) for part in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return -(1 << 63) <= value < 1 << 63
    return isinstance(value, str | float | bool)


def _short(name: str) -> str:
    """A name in an error, however it is written."""
    return repr(name if len(name) <= 60 else f"{name[:60]}…")

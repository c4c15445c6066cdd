"""Target functions φ: what is measured of a target. No torch.

A function is one row here and, under the same name, its twin for torch in `engine.core.targets`, which the
derivatives are taken of. `register` adds a row; the two tables are compared by tests/test_targets.py.

    loss             −log p(label)                                    nats
    margin           logit of the label − log Σ_{others} exp(logit)   logits
    logit            logit of the label                               logits
    logit:C          logit of the class C, whatever the label         logits
    difference:A>B   logit of A − logit of B: «why A and not B»       logits

The first two follow from the margin m of an image, for p = 1 / (1 + exp(−m)); `slope` says how fast, and with it what
a predicted change of one function does to the other. The last two take classes, by number: each is a family with one
row, and `target_function` makes of a text such as `difference:6>4` the function of these classes. A function has one
text, which is its name everywhere; `slug` is the same for names of files.

Scores that another program made are of a function that is not known here: `imported("TRAK", "help")` stands for it, by
the name of its method, with which sign helps and no unit but its own. No value follows from logits, nothing is foretold
by minus a score, and neither training nor a form offers it.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError

LABELS = "(?:0|[1-9][0-9]{0,4})"
WITH_CLASSES = re.compile(f"([a-z][a-z0-9-]*):({LABELS}(?:>{LABELS})*)")

LONGEST = 80  # characters of a text that are shown in an error

METHOD = r"[^\W_](?:[\w .()+-]{0,38}[\w)+])?"  # a method's name, or a unit's, which stand in links and names of files

IMPORTED = re.compile(f"imported-(help|harm):({METHOD})(?::({METHOD}))?")

SIGNS = {"help": -1, "harm": 1}
"""What a positive imported score means, and the `harmful_sign` that says so."""


@dataclass(frozen=True)
class TargetFunction:
    """One target function.

    `name`           its one text, in configurations and links: small letters, digits and dashes; of a function of
                     classes, their numbers behind
    `short_unit`     of a value, such as nats
    `harmful_sign`   +1 where a rise of the value is what one does not want (a loss), −1 where a fall is (a margin)
    `sentence`       what it is, for the form
    `from_logits`    logits [S, C] and labels int64 [S] to values float64 [S]
    `slope`          d value / d margin of one image, from its margin; None where the value does not follow from it
    `words`          what people read in the middle of a sentence, with {} for each class; the name where empty
    `classes`        numbers of the classes that it was made of
    `lowest`         the least value that there is
    `method`         whose scores these are; "" where they are the derivatives that a replay makes
    """

    name: str
    short_unit: str
    harmful_sign: int
    sentence: str
    from_logits: Callable[[np.ndarray, np.ndarray], np.ndarray]
    slope: Callable[[float], float] | None = None
    words: str = ""
    classes: tuple[int, ...] = ()
    lowest: float = -math.inf
    method: str = ""

    @property
    def unit(self) -> str:
        """Of a score."""
        return self.short_unit if self.method else f"{self.short_unit} per unit of example weight"

    @property
    def slug(self) -> str:
        """For names of files, with nothing but small letters, digits and dashes."""
        return re.sub("[^a-z0-9]+", "-", self.name)

    def in_words(self, class_names: Sequence[str] | None = None) -> str:
        """What people read in the middle of a sentence, such as «logit of Coat»; holds names of classes, which are
        plain text and no Markdown."""
        shown = [f"class {c}" if class_names is None else class_names[c] for c in self.classes]
        return self.words.format(*shown) if self.words else self.name

    def meaning(self, class_names: Sequence[str] | None = None) -> str:
        """The sign and the unit of a score, in one line."""
        up, down = ("harmful", "helpful") if self.harmful_sign > 0 else ("helpful", "harmful")
        what = self.in_words(class_names)
        if self.method:
            return (
                f"A score is what {self.method} says that the training image did to the target, in {self.short_unit}. "
                f"Positive: {up}; negative: {down}. What leaving it out would change is not said."
            )
        return (
            f"A score is the derivative of the target's {what} ({self.short_unit}) with respect to the training "
            f"image's weight. Positive: training on it raised the {what} ({up}); negative: "
            f"lowered it ({down}). Leaving it out changes the {what} by about minus the score."
        )


@dataclass(frozen=True)
class FunctionFamily:
    """A function of the logits of some classes, whatever the label: one `TargetFunction` for each choice of them.

    `example` says how it is written, `takes` how many classes; `from_logits` maps logits float64 [S, C] and their
    numbers to values [S]. `harmful_sign` is −1 where a rise speaks for the first class. Other fields as of
    `TargetFunction`.
    """

    name: str
    example: str
    takes: int
    short_unit: str
    harmful_sign: int
    sentence: str
    words: str
    from_logits: Callable[..., np.ndarray]

    def of(self, *classes: int) -> TargetFunction:
        """The function of these classes. Raises `ConfigError` for another number of them, or one named twice."""
        text = f"{self.name}:{'>'.join(map(str, classes))}"
        if len(classes) != self.takes or len(set(classes)) < len(classes):
            problem = f"{text} does not name {self.takes} different class{'es' if self.takes > 1 else ''}"
            raise ConfigError(
                f"The target function {problem}.", f"Write it as {self.example}.", {"target_function": problem}
            )

        def from_logits(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
            return self.from_logits(np.asarray(logits_SC, np.float64), *classes)

        return TargetFunction(
            text,
            self.short_unit,
            self.harmful_sign,
            self.sentence,
            from_logits,
            words=self.words,
            classes=classes,
        )


def losses(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """−log p of the labels, float64 [S]."""
    logits_SC = np.asarray(logits_SC, np.float64)
    highest = logits_SC.max(1, keepdims=True)
    shifted = logits_SC - highest
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(shifted)), labels_S]


def margins(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """Each label's logit minus log-sum-exp of the others, float64 [S]: exact at any size, where going through the
    probability loses its digits from a margin of 28 on."""
    logits_SC = np.asarray(logits_SC, np.float64)
    rows = np.arange(len(logits_SC))
    others = logits_SC.copy()
    others[rows, labels_S] = -np.inf
    highest = others.max(1)
    return logits_SC[rows, labels_S] - highest - np.log(np.exp(others - highest[:, None]).sum(1))


def logits_of_labels(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """Each label's logit, float64 [S]."""
    return np.asarray(logits_SC, np.float64)[np.arange(len(labels_S)), labels_S]


def _wrong(margin: float) -> float:
    """1 − p of an image of this margin."""
    return float(np.exp(-np.logaddexp(0.0, margin)))


FUNCTIONS: dict[str, TargetFunction] = {}
"""Functions that take no classes, by name."""

FAMILIES: dict[str, FunctionFamily] = {}
"""Functions of classes, by the name before the colon. One may have the name of a function that takes none."""


def register(function: TargetFunction) -> TargetFunction:
    """Adds a row. Its twin for torch must be added under the same name (`engine.core.targets`)."""
    if FUNCTIONS.setdefault(function.name, function) is not function:
        raise ConfigError(f"There are two target functions «{function.name}».", "Give one of them another name.")
    return function


def register_family(family: FunctionFamily) -> FunctionFamily:
    """Adds a row. Its twin for torch must be added under the same name (`engine.core.targets`)."""
    if FAMILIES.setdefault(family.name, family) is not family:
        raise ConfigError(f"There are two functions of classes «{family.name}».", "Give one of them another name.")
    return family


def target_function(name: str) -> TargetFunction:
    """The function of a text such as `loss` or `logit:3`, the same value each time; `ConfigError` for any other."""
    if isinstance(name, str):
        if name in FUNCTIONS:
            return FUNCTIONS[name]
        match = WITH_CLASSES.fullmatch(name)
        if match and match[1] in FAMILIES:
            return _of_classes(FAMILIES[match[1]], tuple(map(int, match[2].split(">"))))
        if match := IMPORTED.fullmatch(name):
            return imported(match[2], match[1], match[3] or "")
    shown = repr(name) if len(repr(name)) <= LONGEST else f"{repr(name)[:LONGEST]}…"
    raise ConfigError(
        f"There is no target function {shown}.",
        f"Choose one of {', '.join(examples())}.",
        {"target_function": f"must be one of {', '.join(examples())}, not {shown}"},
    )


@functools.lru_cache(maxsize=1024)
def _of_classes(family: FunctionFamily, classes: tuple[int, ...]) -> TargetFunction:
    return family.of(*classes)


@functools.lru_cache(maxsize=1024)
def imported(method: str, sign: str, unit: str = "") -> TargetFunction:
    """What the scores of another program are of. `sign` of `SIGNS` says what a positive one means; `unit` is theirs,
    and where nobody says it, they are counted in «TRAK units». Raises `ConfigError` for a name that no link can hold,
    and for another sign."""
    for what, text in (("method", method), ("unit", unit)):
        if (text or what == "method") and not re.fullmatch(METHOD, text):
            raise ConfigError(
                f"{text[:LONGEST]!r} cannot be the name of a {what}.",
                "Write one of 1 to 40 letters, digits, spaces and . ( ) + -, such as TRAK or EK-FAC 1.0.1.",
            )
    if sign not in SIGNS:
        raise ConfigError(
            f"What a positive score means is not said by {sign!r:.80}.",
            "Say sign (--sign) help where an image of positive score helped the target, harm where it harmed it.",
        )
    name = f"imported-{sign}:{method}{f':{unit}' if unit else ''}"
    sentence = f"Scores of {method}, made elsewhere."
    return TargetFunction(
        name, unit or f"{method} units", SIGNS[sign], sentence, _unknown, words=f"{method} score", method=method
    )


def _unknown(logits_SC: np.ndarray, labels_S: np.ndarray) -> np.ndarray:
    """Of scores that were made elsewhere: no value of theirs follows from logits."""
    return np.full(len(labels_S), np.nan)


def examples() -> list[str]:
    """How each function is written."""
    return [*FUNCTIONS, *(family.example for family in FAMILIES.values())]


def function_problem(name: object, n_classes: int | None = None) -> str | None:
    """Why a text is no function for a data set of so many classes (None: not known), as the end of a sentence; None
    where it is one."""
    try:
        function = target_function(name)  # type: ignore[arg-type]  # anything may stand in a file
    except ConfigError as error:
        return error.problems.get("target_function", error.what)
    if function.method:
        return f"{name} is of scores that were made elsewhere: nothing here computes them"
    if n_classes is not None and any(c >= n_classes for c in function.classes):
        return f"{name} is out of range: the classes are 0 to {n_classes - 1}"
    return None


register(
    TargetFunction(
        name="loss",
        short_unit="nats",
        harmful_sign=1,
        sentence="Cross-entropy loss of the target, in nats.",
        from_logits=losses,
        slope=lambda margin: -_wrong(margin),
        lowest=0.0,
    )
)

register(
    TargetFunction(
        name="margin",
        short_unit="logits",
        harmful_sign=-1,
        sentence="Logit of the true label minus the log-sum-exp of the others, in logits.",
        from_logits=margins,
        slope=lambda margin: 1.0,
    )
)

register(
    TargetFunction(
        name="logit",
        short_unit="logits",
        harmful_sign=-1,
        sentence="Logit of the true label alone, whatever the others are.",
        from_logits=logits_of_labels,
    )
)

register_family(
    FunctionFamily(
        name="logit",
        example="logit:CLASS",
        takes=1,
        short_unit="logits",
        harmful_sign=-1,
        sentence="Logit of a class of your choice. Helpful images speak for that class, right or wrong.",
        words="logit of {}",
        from_logits=lambda logits_SC, a: logits_SC[:, a],
    )
)

register_family(
    FunctionFamily(
        name="difference",
        example="difference:CLASS>CLASS",
        takes=2,
        short_unit="logits",
        harmful_sign=-1,
        sentence="Why this class and not that: the first one's logit minus the second's. Helpful images speak for the "
        "first.",
        words="logit of {} minus that of {}",
        from_logits=lambda logits_SC, a, b: logits_SC[:, a] - logits_SC[:, b],
    )
)

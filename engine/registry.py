"""Names that stand for things: models, optimizers, data sets. Open for registration, and free of torch.

A built-in is entered by the place where it is made, `"engine.models.resnet9:resnet9"`, and imported when it is first
asked for: so a configuration and a page know every name without loading torch. What comes from elsewhere is entered as
it is, by `register`, in the file that defines it.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Generic, TypeVar

from engine.errors import ConfigError

T = TypeVar("T")

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # it stands in files, links and options


class Registry(Generic[T]):
    """What things of one kind are called. `field` is the setting that names one, for the errors of a form.

    Not for values of a person's own: a name that is registered later changes what an older configuration means.
    """

    def __init__(self, what: str, field: str, places: dict[str, str]):
        self.what, self.field = what, field
        self._places, self._things = dict(places), dict[str, T]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._things

    def names(self) -> tuple[str, ...]:
        """All, the built-in ones first, in order of registration."""
        return tuple(dict.fromkeys([*self._places, *self._things]))

    def register(self, name: str, thing: T) -> T:
        """Enters `thing`, and returns it. The same thing may be entered again; `ConfigError` where the name is taken,
        or is none that may stand in a file or a link."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(f"{name!r:.80} is no name of a {self.what}.", "Use small letters, digits and dashes.")
        if name in self._places or self._things.setdefault(name, thing) is not thing:
            raise ConfigError(f"There is a {self.what} «{name}» already.", "Choose another name.")
        return thing

    def get(self, name: str) -> T:
        """The thing of a name; `ConfigError` for one that is not known."""
        if name not in self:
            names = ", ".join(self.names())
            raise ConfigError(
                f"There is no {self.what} «{name}».",
                f"Choose one of {names}, or import the file that registers it.",
                {self.field: f"is not one of {names}"},
            )
        if name not in self._things:
            module, _, attribute = self._places[name].partition(":")
            self._things[name] = getattr(importlib.import_module(module), attribute)
        return self._things[name]

"""Names of parts (methods, datasets, encoders, fusions), each imported when it is asked for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar

from .errors import UserError

Part = TypeVar("Part")


@dataclass(eq=False)
class Registry(Mapping[str, type[Part]]):
    """A mapping {name: part}; a part is given as "module:Class" inside the registry's package.

    Names match in any case; aliases, {other name: name}, match as well. An unknown name raises a
    `UserError` that lists the valid ones.
    """

    kind: str
    package: str
    parts: dict[str, str | type[Part]]
    aliases: dict[str, str] = field(default_factory=dict)

    def find(self, name: str, choices: Iterable[str] | None = None) -> str:
        """Return the registered spelling of name; an error suggests the names in choices."""
        spelling = self._spelling()
        if name.lower() not in spelling:
            close = get_close_matches(name.lower(), spelling, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            names = ", ".join(choices or self.parts)
            raise UserError(f"unknown {self.kind} {name!r}{hint}: choose one of {names}")
        return spelling[name.lower()]

    def _spelling(self) -> dict[str, str]:
        return {known.lower(): known for known in self.parts} | self.aliases

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in self._spelling()

    def __getitem__(self, name: str) -> type[Part]:
        part = self.parts[self.find(name)]
        if isinstance(part, str):
            module, _, attribute = part.partition(":")
            part = getattr(import_module(f".{module}", self.package), attribute)
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

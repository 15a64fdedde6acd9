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
    `UserError` that lists the valid ones. families, {prefix: part}, hold parts that a library
    knows by name: "prefix:NAME" is a subclass of the part whose `net` is NAME.
    """

    kind: str
    package: str
    parts: dict[str, str | type[Part]]
    aliases: dict[str, str] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Return all names, for messages."""
        return [*self.parts, *(f"{prefix}:NAME" for prefix in self.families)]

    def find(self, name: str, choices: Iterable[str] | None = None) -> str:
        """Return the registered spelling of name; an error suggests the names in choices."""
        spelling = self._spelling()
        prefix, _, net = name.partition(":")
        if prefix in self.families and net:
            return name
        if name.lower() not in spelling:
            close = get_close_matches(name.lower(), spelling, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            names = ", ".join(choices or self.names)
            raise UserError(f"unknown {self.kind} {name!r}{hint}: choose one of {names}")
        return spelling[name.lower()]

    def _spelling(self) -> dict[str, str]:
        return {known.lower(): known for known in self.parts} | self.aliases

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in self._spelling()

    def __getitem__(self, name: str) -> type[Part]:
        prefix, _, net = self.find(name).partition(":")
        part = self.families[prefix] if net else self.parts[prefix]
        if isinstance(part, str):
            module, _, attribute = part.partition(":")
            part = getattr(import_module(f".{module}", self.package), attribute)
        own = {"net": net, "__doc__": part.__doc__}
        return type(part.__name__, (part,), own) if net else part

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

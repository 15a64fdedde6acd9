"""Names of parts (methods, datasets, encoders, fusions), each imported when it is asked for."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module

from .errors import UserError


class Registry(Mapping):
    """{name: part}; a part is given as "module:Class" inside the registry's own package.

    Names match without case; an unknown one is a `UserError` that lists the valid ones.
    """

    def __init__(self, kind: str, package: str, parts: dict[str, str | type]):
        self.kind, self.package, self.parts = kind, package, parts

    def find(self, name: str) -> str:
        """The registered spelling of name."""
        spelling = {known.lower(): known for known in self.parts}
        if name.lower() not in spelling:
            close = get_close_matches(name.lower(), spelling, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UserError(
                f"unknown {self.kind} {name!r}{hint}: choose one of {', '.join(self.parts)}"
            )
        return spelling[name.lower()]

    def __getitem__(self, name: str) -> type:
        part = self.parts[self.find(name)]
        if isinstance(part, str):
            module, _, attribute = part.partition(":")
            part = getattr(import_module(f".{module}", self.package), attribute)
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

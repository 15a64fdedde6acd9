"""torch's containers of modules with the type of what they hold; state dicts are theirs."""

from collections.abc import ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class Modules(nn.ModuleDict, Generic[M]):
    """{name: module}."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...

        def items(self) -> ItemsView[str, M]: ...

        def values(self) -> ValuesView[M]: ...


class Row(nn.ModuleList, Generic[M]):
    """Modules in their order."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

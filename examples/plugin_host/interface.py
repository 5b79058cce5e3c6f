"""What a plug-in offers, as types that both sides are held to; and whether a value from outside is of such a type."""

from __future__ import annotations

import math
import types
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

__all__ = ["TextPlugin", "fits", "methods"]


class TextPlugin(Protocol):
    """A plug-in for texts: a Python file with these functions, all or some."""

    def title(self) -> str:
        """What it does, in a few words."""

    def transform(self, text: str) -> str:
        """Another text."""

    def measure(self, text: str) -> dict[str, float]:
        """Figures about a text."""


def methods(interface: type) -> dict[str, tuple[tuple[Any, ...], Any]]:
    """The functions of an interface: the types of their arguments, and of what they return."""
    found = {}
    for name, function in vars(interface).items():
        if not name.startswith("_") and isinstance(function, types.FunctionType):
            hints = get_type_hints(function)
            found[name] = (tuple(hint for key, hint in hints.items() if key != "return"), hints["return"])
    return found


def fits(value: object, hint: Any) -> bool:
    """Whether a value that came as JSON is of this type: str, int, float, bool, None, list, dict of str, or a union."""
    origin = get_origin(hint)
    if origin is list:
        return isinstance(value, list) and all(fits(item, get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, get_args(hint)[1]) for item in value.values())
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)

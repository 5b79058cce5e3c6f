"""Equality, hash and repr of the values that every start makes, in one place: attrs would compile them for each class anew at each import."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

__all__ = ["Value"]


def _nothing(_value: object) -> tuple[()]:
    return ()


_compared: dict[type, Callable[[Any], Any]] = {}  #: of each class: the fields that say whether two are equal


def _fields_of(value: Any) -> Any:
    cls = value.__class__
    get = _compared.get(cls)
    if get is None:
        get = _compared[cls] = _getter([field for field in cls.__attrs_attrs__ if field.eq])
    return get(value)


def _getter(fields: list[Any]) -> Callable[[Any], Any]:
    names = [field.name for field in fields]
    keys = [field.eq_key for field in fields]  #: what a field is compared by, where not by itself
    if not names:
        return _nothing
    if not any(keys):
        return attrgetter(*names)
    return lambda value: tuple(
        getattr(value, name) if key is None else key(getattr(value, name)) for name, key in zip(names, keys, strict=True)
    )


class Value:
    """What `@frozen(eq=False, repr=False)` leaves to its base: the methods that attrs would write, with the same answers.

    To compile them takes more than half of what a class costs at import, and a command line is mostly imports.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return bool(_fields_of(self) == _fields_of(other))

    def __hash__(self) -> int:
        return hash((self.__class__, _fields_of(self)))

    def __repr__(self) -> str:
        cls: Any = self.__class__
        shown = [(field.name, field.repr) for field in cls.__attrs_attrs__ if field.repr]
        said = (f"{name}={(repr if how is True else how)(getattr(self, name))}" for name, how in shown)
        return f"{cls.__qualname__.rsplit('>.', 1)[-1]}({', '.join(said)})"

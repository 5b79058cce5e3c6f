"""Which namespaces a container has of its own, shares with its caller, or joins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ..values import Value
from .checks import Check, Schema, built, setting, text

__all__ = ["Namespaces"]

_FD_MAX = 2**31 - 1


class _Namespace(Check):
    """True (a new one), False (the caller's own), or an existing one: an absolute path, or a descriptor."""

    wish = (
        "give True for a new one, False for the caller's, or the absolute path or descriptor of one to join"
    )

    def __call__(self, value: Any, path: str) -> bool | str | int:
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            if not 0 <= value <= _FD_MAX:
                raise self.refuse(value, path)
            return int(value)
        existing = text(value, path, self.wish)
        if not existing.startswith("/") or len(os.fsencode(existing)) > 4095:
            raise self.refuse(value, path)
        return existing

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "boolean"},
                {"type": "integer", "minimum": 0, "maximum": _FD_MAX},
                {"type": "string", "pattern": "^/", "maxLength": 4095},
            ]
        }


_NAMESPACE = _Namespace()


def _typed(value: object) -> tuple[type, object]:
    return (type(value), value)  # the descriptor 1 is not True, nor 0 False


def _kind(default: bool) -> Any:
    return setting(_NAMESPACE, default, eq=_typed)


if TYPE_CHECKING:
    Namespace = bool | int | str | bytes | os.PathLike[str] | os.PathLike[bytes]


@built
@frozen(kw_only=True, init=False, eq=False, repr=False)
class Namespaces(Value):
    """For each kind: True, a new one; False, the caller's; a path or descriptor, an existing one to join.

    What is joined is opened, and its kind checked, before the first of them is entered (setns(2)). In a PID
    namespace that is shared or joined there is no init of ours: see `Spec.has_init`.
    """

    PLACE: ClassVar[str] = "namespaces"

    user: bool | int | str = _kind(True)
    mount: bool | int | str = _kind(True)
    pid: bool | int | str = _kind(True)
    network: bool | int | str = _kind(True)
    ipc: bool | int | str = _kind(True)
    uts: bool | int | str = _kind(True)
    cgroup: bool | int | str = _kind(True)
    time: bool | int | str = _kind(False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            user: Namespace = True,
            mount: Namespace = True,
            pid: Namespace = True,
            network: Namespace = True,
            ipc: Namespace = True,
            uts: Namespace = True,
            cgroup: Namespace = True,
            time: Namespace = False,
        ) -> None: ...

"""The ladder of strengths: how much of a Spec's separation may be given up where the surroundings forbid it."""

from __future__ import annotations

import enum

__all__ = ["Strength"]


class Strength(enum.StrEnum):
    """A rung of the ladder, the strongest first; `Spec.min_strength` names the lowest that will do, `box.strength` the one in force.

    >>> "no process outside is seen" in Strength.LANDLOCK.promises
    False
    """

    FULL = "full"  #: everything that the Spec says
    NO_NETWORK_NAMESPACE = "no-network-namespace"  #: no network namespace: the filter refuses every socket instead
    LANDLOCK = "landlock"  #: no namespace and no mount: Landlock and the filter alone

    @property
    def promises(self) -> frozenset[str]:
        """What holds on this rung, in the words of docs/security.md."""
        return _PROMISES[self]


_ALONE = frozenset(
    (
        "no privilege is had or gained",
        "no door of the kernel but those of the filter",
        "no file is opened but those of the Spec",
        "no process outside is signalled or traced",
        "nothing outside is reached by a network",
    )
)
_NAMESPACES = _ALONE | {
    "no file is seen but those of the Spec",
    "no process outside is seen",
    "its ids are its own",
    "it ends with its supervisor",
    "more commands can be run in it",
}
_PROMISES = {
    Strength.FULL: _NAMESPACES | {"it has a loopback of its own"},
    Strength.NO_NETWORK_NAMESPACE: _NAMESPACES,
    Strength.LANDLOCK: _ALONE,
}

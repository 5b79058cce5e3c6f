"""The kernel's small knobs that a Spec sets: rlimits, sysctls, and the offsets of a time namespace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import SpecError
from ..units import seconds, size
from .checks import Check, Schema, Table, Word, below, nearest, text

__all__ = ["INFINITY", "RLIMITS", "RLIMIT_NAMES", "SYSCTL", "TIME_OFFSETS", "sysctl_namespace"]

INFINITY = 2**64 - 1  #: RLIM_INFINITY of getrlimit(2)

#: prlimit(1)'s names; True where the number is of bytes, so that "64M" may be written
RLIMIT_NAMES = {
    "as": True,
    "core": True,
    "cpu": False,
    "data": True,
    "fsize": True,
    "locks": False,
    "memlock": True,
    "msgqueue": True,
    "nice": False,
    "nofile": False,
    "nproc": False,
    "rss": True,
    "rtprio": False,
    "rttime": False,
    "sigpending": False,
    "stack": True,
}


class _RLimits(Check):
    """{"nofile": (soft, hard)}, an int for both, "unlimited", or resource.RLIM_INFINITY."""

    wish = 'give limits by name, such as {"nofile": (1024, 4096)}'
    _VALUE = 'give (soft, hard), an int for both, or "unlimited"'

    def __call__(self, value: Any, path: str) -> dict[str, tuple[int, int]]:
        if not isinstance(value, Mapping):
            raise self.refuse(value, path)
        result: dict[str, tuple[int, int]] = {}
        for given, item in value.items():
            name = given.lower().removeprefix("rlimit_") if isinstance(given, str) else given
            if name not in RLIMIT_NAMES:
                raise self.refuse(
                    item, below(path, given), f"give prlimit(1)'s names{nearest(name, RLIMIT_NAMES)}"
                )
            if name in result:
                raise self.refuse(given, path, f"it means {name!r}, which is there already")
            result[name] = self._pair(name, item, f"{path}.{name}")
        return result

    def _pair(self, name: str, value: Any, path: str) -> tuple[int, int]:
        if not isinstance(value, (tuple, list)):
            both = self._one(name, value, path)
            return (both, both)
        if len(value) != 2:
            raise self.refuse(value, path, self._VALUE)
        soft, hard = (self._one(name, item, f"{path}[{index}]") for index, item in enumerate(value))
        if soft > hard:
            raise self.refuse(value, path, "the soft limit must not be above the hard one")
        return (soft, hard)

    def _one(self, name: str, value: Any, path: str) -> int:
        if value == "unlimited" or (value == -1 and type(value) is int):  # resource.RLIM_INFINITY is -1
            return INFINITY
        if isinstance(value, str) and RLIMIT_NAMES[name]:
            return size(value, path)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INFINITY:
            raise self.refuse(value, path, self._VALUE)
        return int(value)

    def schema(self) -> Schema:
        one = {"anyOf": [{"type": "integer", "minimum": -1, "maximum": INFINITY}, {"type": "string"}]}
        pair = {"type": "array", "items": one, "minItems": 2, "maxItems": 2}
        known = {name: {"anyOf": [*one["anyOf"], pair]} for name in RLIMIT_NAMES}
        return {"type": "object", "properties": known, "additionalProperties": False}


# What a namespace has of its own, so that setting it changes nothing outside: the lists of runtimes, and
# namespaces(7), ipc_namespaces(7), network_namespaces(7). Everything else below /proc/sys is the whole machine's.
_SYSCTL_PREFIXES = {"net.": "network", "fs.mqueue.": "ipc", "user.max_": "user"}
_SYSV = "msgmax msgmnb msgmni msg_next_id sem sem_next_id shmall shmmax shmmni shm_rmid_forced shm_next_id"
_SYSCTL_NAMES = frozenset(f"kernel.{name}" for name in _SYSV.split())
_SYSCTL_NAME = r"[A-Za-z0-9_][A-Za-z0-9_/:@+-]*(\.[A-Za-z0-9_][A-Za-z0-9_/:@+-]*)+"
_FIELDS = {"kernel.hostname": "hostname", "kernel.domainname": "domainname"}


def sysctl_namespace(name: str) -> str | None:
    """The kind of namespace that has the sysctl `name` of its own; None where it is the whole machine's."""
    if name in _SYSCTL_NAMES:
        return "ipc"
    return next((kind for prefix, kind in _SYSCTL_PREFIXES.items() if name.startswith(prefix)), None)


class _SysctlName(Check):
    """A name as in sysctl(8), normalised to dots; a "/" in it then stands for a dot in an interface's name."""

    wish = 'give a name such as "net.ipv4.ip_forward"'

    def __call__(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or len(value) > 255:
            raise self.refuse(value, path)
        first = re.search(r"[./]", value)
        name = value.translate({ord("/"): ".", ord("."): "/"}) if first and first[0] == "/" else value
        if not re.fullmatch(_SYSCTL_NAME, name, re.ASCII) or "//" in name:
            raise self.refuse(value, path)
        if name in _FIELDS:
            raise self.refuse(value, path, f"the Spec has a field for it: {_FIELDS[name]}")
        if sysctl_namespace(name) is None:
            raise self.refuse(
                value, path, "it is the whole machine's; only net.*, fs.mqueue.*, user.max_* and kernel's "
                "shm*, msg* and sem belong to a container"
            )  # fmt: skip
        return name


class _SysctlValue(Check):
    """Text on one line, or an int, which is written in decimal."""

    wish = "give text on one line, or an int"

    def __call__(self, value: Any, path: str) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or len(value) > 4096 or not value.isascii() or "\n" in value:
            raise self.refuse(value, path)
        return text(value, path, self.wish)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string", "pattern": "^[^\n]*$"}, {"type": "integer"}]}


class _Offset(Check):
    """Seconds, also negative, within what timens_offsets takes (time_namespaces(7))."""

    wish = 'give seconds, also negative, as a number or text such as "1h"'
    _MOST = 4_611_686_018  # KTIME_SEC_MAX / 2

    def __call__(self, value: Any, path: str) -> float:
        try:
            result = seconds(value, path, negative=True)
        except SpecError:
            raise self.refuse(value, path) from None
        if abs(result) > self._MOST:
            raise self.refuse(value, path, f"give at most {self._MOST} seconds")
        return result

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^-?[0-9]"}]}


class _Offsets(Table):
    def schema(self) -> Schema:
        offset = self.value.schema()
        return {
            "type": "object",
            "properties": dict.fromkeys(("monotonic", "boottime"), offset),
            "additionalProperties": False,
        }


RLIMITS = _RLimits()
SYSCTL = Table(_SysctlName(), _SysctlValue(), 'give values by name, such as {"net.ipv4.ip_forward": "1"}')
TIME_OFFSETS = _Offsets(
    Word("monotonic|boottime", 'the clocks with an offset are "monotonic" and "boottime"'),
    _Offset(),
    'give seconds by clock, such as {"boottime": 3600}',
)

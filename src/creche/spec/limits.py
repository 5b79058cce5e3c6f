"""How much a container may use: memory, processors, processes, devices and time."""
# ruff: noqa: RUF009 - setting() makes a field of the class; the rule takes it for a shared default

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ..errors import SpecError
from ..units import number, seconds, size
from ..values import Value
from .checks import Check, Flag, HostPath, Maybe, Schema, Table, Whole, below, built, nearest, setting

__all__ = ["Limits"]

_SIZE_TEXT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?( ?(([KMGTPkmgtp])([iI]?[bB])?|[bB]))?$"}
_LEAST_MEMORY = 256 << 10  # below this nothing starts, and what was meant was another unit
_LEAST_QUOTA = 1000  # microseconds in a period: sched-bwc.rst
_PERIOD = 100_000  # microseconds: cpu.max's default, cgroup-v2.rst
_MOST_CPUS = 8192  # NR_CPUS' highest in the kernel's own configurations


class Size(Check):
    """Bytes, from an int or text such as "64M"."""

    def __init__(self, least: int, wish: str) -> None:
        self.least, self.wish = least, wish

    def __call__(self, value: Any, path: str) -> int:
        try:
            result = size(value, path)
        except SpecError as error:
            raise self.refuse(value, path, self.wish if type(value) is int and value < 0 else error.wish) from None
        if result < self.least:
            raise self.refuse(value, path)
        return result

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "integer", "minimum": self.least, "maximum": 2**63 - 1}, _SIZE_TEXT]}


class _Cpus(Check):
    """Processors, as a number above 0: 0.5 is half of one."""

    wish = f"give a number of processors above 0 and up to {_MOST_CPUS}, such as 0.5, or None for no limit"

    def __call__(self, value: Any, path: str) -> float:
        try:
            result = number(value, path)
        except SpecError:
            raise self.refuse(value, path) from None
        if not 0 < result <= _MOST_CPUS:
            raise self.refuse(value, path)
        return result

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_CPUS},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
            ]
        }


class Duration(Check):
    """Seconds above 0, from a number or text such as "200ms"."""

    wish = 'give seconds above 0, as a number or text such as "200ms" or "1.5", or None for no limit'

    def __call__(self, value: Any, path: str) -> float:
        try:
            result = seconds(value, path)
        except SpecError:
            raise self.refuse(value, path) from None
        if result <= 0:
            raise self.refuse(value, path)
        return result

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": "^[0-9]"}]}


class _NumberList(Check):
    """A list of numbers in the kernel's spelling ("0-1,3"), or as ints; sorted and shortest afterwards."""

    wish = 'give numbers as in "0-1,3", or a list of ints, or None for all'
    _RANGE = r"([0-9]{1,5})(?:-([0-9]{1,5}))?"

    def __call__(self, value: Any, path: str) -> str:
        numbers: set[int] = set()
        if isinstance(value, str):
            for part in value.split(","):
                match = re.fullmatch(self._RANGE, part.strip(), re.ASCII)
                if match is None:
                    raise self.refuse(value, path)
                first, last = int(match[1]), int(match[2] or match[1])
                if first > last or last >= _MOST_CPUS:
                    raise self.refuse(value, path)
                numbers.update(range(first, last + 1))
        elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            each = Whole(0, _MOST_CPUS - 1)
            numbers.update(each(item, f"{path}[{index}]") for index, item in enumerate(value))
        if not numbers:
            raise self.refuse(value, path)
        return _ranges(sorted(numbers))

    def schema(self) -> Schema:
        listed = {"type": "array", "minItems": 1, "items": Whole(0, _MOST_CPUS - 1).schema()}
        return {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*[0-9]+(-[0-9]+)?\s*(,\s*[0-9]+(-[0-9]+)?\s*)*$"},
                listed,
            ]
        }


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for item in numbers:
        if runs and runs[-1][1] == item - 1:
            runs[-1][1] = item
        else:
            runs.append([item, item])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


class _Io(Check):
    """io.max's keys for one device; bytes a second as sizes, operations a second as ints."""

    KEYS: ClassVar[dict[str, Check]] = {
        "rbps": Size(1, 'give bytes a second of at least 1, such as "10M", or None for no limit'),
        "wbps": Size(1, 'give bytes a second of at least 1, such as "10M", or None for no limit'),
        "riops": Whole(1, 2**63 - 1, "operations a second"),
        "wiops": Whole(1, 2**63 - 1, "operations a second"),
    }
    wish = 'give rbps, wbps, riops or wiops, such as {"rbps": "10M", "wiops": 100}'

    def __call__(self, value: Any, path: str) -> dict[str, int | None]:
        if not isinstance(value, Mapping) or not value:
            raise self.refuse(value, path)
        for key, item in value.items():
            if key not in self.KEYS:
                raise self.refuse(item, below(path, key), self.wish + nearest(key, self.KEYS))
        return {key: Maybe(self.KEYS[key])(item, f"{path}.{key}") for key, item in value.items()}

    def schema(self) -> Schema:
        keys = {key: Maybe(check).schema() for key, check in self.KEYS.items()}
        return {"type": "object", "properties": keys, "additionalProperties": False, "minProperties": 1}


class _HugePages(Check):
    """Bytes of huge pages by their size, in the kernel's spelling: {"2MB": "64M"}."""

    wish = 'give bytes by the size of page, such as {"2MB": "64M"}'
    _PAGE = r"([1-9][0-9]{0,3})([KMGkmg])[Bb]?"

    def __call__(self, value: Any, path: str) -> dict[str, int]:
        if not isinstance(value, Mapping) or not value:
            raise self.refuse(value, path)
        result: dict[str, int] = {}
        for given, item in value.items():
            match = re.fullmatch(self._PAGE, given, re.ASCII) if isinstance(given, str) else None
            if match is None:
                raise self.refuse(given, path)
            page = f"{match[1]}{match[2].upper()}B"
            if page in result:
                raise self.refuse(given, path, f"it means {page!r}, which is there already")
            held = Size(0, 'give bytes, such as "64M"; 0 for none')(item, f"{path}[{page!r}]")
            if held % size(page, path):  # the kernel would round it down in silence
                raise self.refuse(item, f"{path}[{page!r}]", f"give a multiple of {page}")
            result[page] = held
        return result

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": Size(0, "").schema(), "minProperties": 1}


_MEMORY = Size(_LEAST_MEMORY, 'give at least "256K" (a size such as "64M"), or None for no limit')
_WEIGHT = Whole(1, 10_000, "a weight")

if TYPE_CHECKING:
    Bytes = int | str
    Numbers = str | Sequence[int]


@built
@frozen(kw_only=True, init=False, eq=False, repr=False)
class Limits(Value):
    """What a container may use. None is no limit; what cannot be enforced here is an error at the start.

    Sizes are bytes (int) or text such as "64M"; times are seconds or text such as "200ms". True if any is set.
    """

    PLACE: ClassVar[str] = "limits"

    memory: int | None = setting(Maybe(_MEMORY), None)
    memory_high: int | None = setting(Maybe(_MEMORY), None)
    swap: int | None = setting(
        Maybe(Size(0, 'give bytes of swap, such as "64M"; 0 for none, None for no limit')), None
    )
    cpus: float | None = setting(Maybe(_Cpus()), None)
    cpu_period: int | None = setting(Maybe(Whole(1000, 1_000_000, "microseconds")), None)
    cpu_weight: int | None = setting(Maybe(_WEIGHT), None)
    pids: int | None = setting(Maybe(Whole(1, 4_194_304, "a number of processes")), None)
    io: dict[str, dict[str, int | None]] | None = setting(
        Maybe(Table(HostPath(), _Io(), 'give limits by path, such as {"/srv": {"rbps": "10M"}}')), None
    )
    io_weight: int | None = setting(Maybe(_WEIGHT), None)
    cpuset: str | None = setting(Maybe(_NumberList()), None)
    cpuset_mems: str | None = setting(Maybe(_NumberList()), None)
    hugetlb: dict[str, int] | None = setting(Maybe(_HugePages()), None)
    oom_group: bool | None = setting(Maybe(Flag()), None)
    cpu_time: float | None = setting(Maybe(Duration()), None)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            memory: Bytes | None = None,
            memory_high: Bytes | None = None,
            swap: Bytes | None = None,
            cpus: float | str | None = None,
            cpu_period: int | None = None,
            cpu_weight: int | None = None,
            pids: int | None = None,
            io: Mapping[str, Mapping[str, Bytes | None]] | None = None,
            io_weight: int | None = None,
            cpuset: Numbers | None = None,
            cpuset_mems: Numbers | None = None,
            hugetlb: Mapping[str, Bytes] | None = None,
            oom_group: bool | None = None,
            cpu_time: float | str | None = None,
        ) -> None: ...

    def __attrs_post_init__(self) -> None:
        if self.memory is not None and self.memory_high is not None and self.memory_high > self.memory:
            raise SpecError(
                "limits.memory_high",
                self.memory_high,
                f"limits.memory ({self.memory}) comes first; give less",
            )
        if self.cpu_period is not None and self.cpus is None:
            raise SpecError(
                "limits.cpu_period", self.cpu_period, "it is the period of limits.cpus; give that too"
            )
        if self.cpus is not None:
            period = self.cpu_period or _PERIOD
            if self.cpus * period < _LEAST_QUOTA:
                least = f"at least {_LEAST_QUOTA / period:g} with a period of {period} µs (limits.cpu_period)"
                raise SpecError(
                    "limits.cpus", self.cpus, f"the kernel's least share is 1 ms a period: give {least}"
                )
        if self.io is not None and not self.io:
            raise SpecError("limits.io", self.io, "give limits for at least one path, or None")

    def __bool__(self) -> bool:
        return self is not NO_LIMITS and self != NO_LIMITS


NO_LIMITS = Limits()  #: what None stands for in a Spec

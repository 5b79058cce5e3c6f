"""Limits put in force over the hierarchies of a group, wholly or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from ..errors import CgroupError, UnsupportedError
from . import devices, files, v1, v2
from .hierarchy import Hierarchy, beneath
from .values import Write

if TYPE_CHECKING:
    from ..spec.limits import Limits

CONTROLLER_OF = {
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "oom_group": "memory",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "pids": "pids",
    "io": "io",
    "io_weight": "io",
    "cpuset": "cpuset",
    "cpuset_mems": "cpuset",
    "hugetlb": "hugetlb",
}
"""The controller each field of Limits needs; cpu_period goes with cpus, and cpu_time has no control: it is watched."""

_WEIGHTS = "switch a disk's scheduler to bfq, or enable io.cost (io.cost.qos)"
MISSING = {
    "memory.swap.max": "boot with swapaccount=1, or have the machine without swap",
    "memory.memsw.limit_in_bytes": "boot with swapaccount=1, or have the machine without swap",
    "io.bfq.weight": "a kernel with CONFIG_BFQ_GROUP_IOSCHED",
    "io.max": "a kernel with CONFIG_BLK_DEV_THROTTLING",
}


@attrs.frozen
class Applied:
    """What is in force now, and how to go back."""

    limits: Limits
    undo: tuple[tuple[str, str], ...]  # (path, value), to be written in this order


def needed(limits: Limits) -> dict[str, str]:
    """The controllers that *limits* needs, each with the first field that asks for it."""
    found: dict[str, str] = {}
    for field, controller in CONTROLLER_OF.items():
        if getattr(limits, field) is not None:
            found.setdefault(controller, field)
    return found


def check(folders: Mapping[Hierarchy, str], limits: Limits) -> None:
    """UnsupportedError where a field needs a controller that no hierarchy of *folders* has."""
    for controller, field in needed(limits).items():
        if not any(hierarchy.offers(controller) for hierarchy in folders):
            raise UnsupportedError(
                f"limits.{field}: this container was made without the {controller} controller",
                hint=f"give it a limits.{field} from the start",
            )


def apply(
    folders: Mapping[Hierarchy, str],
    limits: Limits,
    before: Limits | None,
    *,
    subs: Iterable[Mapping[Hierarchy, str]] = (),
) -> Applied:
    """Write *limits* into *folders*, where *before* is in force. What was written is taken back on any failure.

    Raises UnsupportedError for what this kernel has no control for, CgroupError for a refusal.
    """
    numbers = {path: devices.device(path) for path in limits.io or {}}
    weighing = devices.weighing() if limits.io_weight is not None else ()
    undo: list[tuple[str, str]] = []
    try:
        for hierarchy, folder in folders.items():
            one, offers = hierarchy.version == 1, hierarchy.offers
            if limits.io_weight is not None and not one and offers("io") and not weighing:
                raise UnsupportedError("limits.io_weight: no disk here is scheduled by weight", hint=_WEIGHTS)
            for write in (
                v1.writes(limits, numbers, before, offers)
                if one
                else v2.writes(limits, numbers, offers, weighing)
            ):
                under = [sub[hierarchy] for sub in subs if hierarchy in sub] if one else []
                _put(write, folder, under, one, None if before is None else undo)
    except BaseException:
        for path, value in reversed(undo):
            with contextlib.suppress(CgroupError):  # the first failure is the one to tell
                files.write(path, value)
        raise
    return Applied(_merged(before, limits), tuple(reversed(undo)))


def _put(write: Write, folder: str, subs: list[str], one: bool, undo: list[tuple[str, str]] | None) -> None:
    if write.controller == "cpuset":
        _within(write, folder, one)
    try:
        _write(write, f"{folder}/{write.file}", one, undo)
        if write.controller == "cpuset":
            for sub in subs:
                _write(write, f"{sub}/{write.file}", one, undo)
    except CgroupError as error:
        if error.errno != errno.ENOENT or not os.path.isdir(folder):
            raise
        if write.field != "swap" or os.path.exists(
            "/proc/swaps"
        ):  # a kernel without swap keeps every promise about it
            raise _missing(write, folder) from error


def _write(write: Write, path: str, one: bool, undo: list[tuple[str, str]] | None) -> None:
    """One write, and in *undo* how to take it back; no *undo* where a failure removes the whole cgroup."""
    back = [] if undo is None else (v1 if one else v2).restoring(write, files.read(path))
    try:
        files.write(path, write.value)
    except CgroupError as error:
        said = f"limits.{write.field}: {error.message}"
        hint = error.hint
        if error.errno == errno.EINVAL and write.controller == "io":
            said, hint = f"{said}: the io controller does not know this device", "name the whole disk"
        raise CgroupError(said, path=error.path, errno=error.errno, hint=hint) from error
    if undo is not None:
        undo.extend((path, value) for value in reversed(back))


def _missing(write: Write, folder: str) -> UnsupportedError:
    if write.controller == "hugetlb":
        sizes = sorted({name.split(".")[1] for name in os.listdir(folder) if name.startswith("hugetlb.")})
        return UnsupportedError(
            f"limits.hugetlb: no {write.file} here",
            hint=f"this machine's page sizes: {', '.join(sizes) or 'none'}",
        )
    hint = MISSING.get(write.file, "a newer kernel, or one built with this control")
    return UnsupportedError(f"limits.{write.field}: this kernel has no {write.file}", hint=hint)


def _within(write: Write, folder: str, one: bool) -> None:
    """Version 2 takes processors that are not there and uses others, so that the question is asked here."""
    kind = write.file.removeprefix("cpuset.")
    parent = os.path.dirname(folder)
    text = files.read_or(f"{parent}/cpuset.effective_{kind}" if one else f"{parent}/cpuset.{kind}.effective")
    if text.strip() and not (asked := cpulist(write.value)) <= (there := cpulist(text)):
        names = ",".join(map(str, sorted(asked - there)))
        raise UnsupportedError(
            f"limits.{write.field}: {names} of {write.value!r} cannot be had",
            hint=f"there are {text.strip()} here",
        )


def cpulist(text: str) -> set[int]:
    """ "0-1,3" as a set (cpuset(7), "List format")."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def prepare(hierarchy: Hierarchy, folder: str) -> None:
    """What a new directory needs before a process may enter: version 1's cpuset starts without any processor."""
    if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
        for kind in ("cpus", "mems"):
            files.write(
                f"{folder}/cpuset.{kind}", files.read(f"{os.path.dirname(folder)}/cpuset.{kind}").strip()
            )


def _merged(before: Limits | None, limits: Limits) -> Limits:
    if before is None:
        return limits
    given = {field.name: getattr(limits, field.name) for field in attrs.fields(type(limits))}
    return attrs.evolve(before, **{name: value for name, value in given.items() if value is not None})


def enable(folder: str, names: Iterable[str]) -> None:
    """Give a version 2 cgroup's children the controllers *names*. Raises CgroupError."""
    given = beneath(folder)
    if missing := [name for name in names if name not in given]:
        files.write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing))

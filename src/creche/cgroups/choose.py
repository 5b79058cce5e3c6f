"""Finding the place where this process may make cgroups: looked for once, in a fixed order, each refusal kept."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping

import anyio
from anyio.lowlevel import RunVar

from ..diagnose import writable_cgroup
from ..errors import CgroupError
from ..machine import probe
from . import files, room
from .hierarchy import Hierarchy, Standing, memberships, standings
from .place import Place

VARIABLE = "CRECHE_CGROUP"
"""The environment's word: a kind ("v2", "systemd", "delegated", "container", "hybrid", "v1", "none") or a path."""

KINDS = ("v2", "systemd", "delegated", "container", "hybrid", "v1", "none")

AGAIN = 30.0
"""Seconds for which a refusal holds where it came of a D-Bus that was not well: it may have been busy, or not up yet."""

_found: dict[tuple[int, str | None], Place] = {}
_until: dict[tuple[int, str | None], float] = {}
_lock = threading.Lock()
_turn: RunVar[anyio.Lock] = RunVar("creche place")


def reset() -> None:
    """Forget what was found, so that the next call looks again."""
    _found.clear()
    _until.clear()


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place for this process's cgroups; never raises for want of one, as `Place.create` says what is missing.

    In this order: version 2 where we stand; a scope that systemd is asked for over D-Bus, which takes some 20 ms, once;
    version 1's hierarchies. On a loop use `find_place_async`.
    Raises CgroupError where $CRECHE_CGROUP names no place.
    """
    if (known := _known(environ)) is not None:
        return known
    result: list[Place | BaseException] = []

    def ask() -> None:
        try:
            result.append(anyio.run(find_place_async, environ))
        except BaseException as error:  # noqa: BLE001 (it is raised again, in the caller's thread)
            result.append(error)

    thread = threading.Thread(target=ask, name="creche-place")  # a loop may be running in this one
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


async def find_place_async(environ: Mapping[str, str] = os.environ) -> Place:
    """As `find_place`, for whoever is on a loop: asyncio, uvloop or trio. Of many who ask at once one looks, and the others wait for it."""
    if (known := _known(environ)) is not None:
        return known
    turn = _turn.get(None)
    if turn is None:
        turn = anyio.Lock()
        _turn.set(turn)
    async with turn:
        return _known(environ) or await _look(environ)


async def _look(environ: Mapping[str, str]) -> Place:
    asked, until = environ.get(VARIABLE), math.inf
    with _lock:
        place = here(asked)
    if not place.usable and asked in (None, "systemd", "delegated"):
        try:
            place = await _systemd(place, asked=asked, environ=environ)
        except CgroupError as error:
            place, until = _because(place, str(CgroupError(error.message, error.path, error.errno)), error.hint), time.monotonic() + AGAIN
    if not place.usable:
        place = older(place, asked)
    if not place.usable:
        _until[os.getpid(), asked] = until
    return _found.setdefault((os.getpid(), asked), place)


def _known(environ: Mapping[str, str]) -> Place | None:
    key = os.getpid(), environ.get(VARIABLE)
    if time.monotonic() >= _until.get(key, math.inf):
        _until.pop(key, None)
        _found.pop(key, None)
    return _found.get(key)


def here(asked: str | None = None, proc: str = "/proc/self", told: str | None = None) -> Place:
    """Version 2 where we stand, which needs nobody's help; kind "none", with the reasons, where that is no place.

    *told* is the unit whose cgroup systemd itself calls delegated, where it leaves no mark on the cgroup.
    """
    if asked is not None and asked not in KINDS:
        if not asked.startswith("/"):
            raise CgroupError(f"{VARIABLE}={asked!r}", hint=f"a path, or one of {', '.join(KINDS)}")
        return _given(asked)
    if asked in ("none", "systemd"):
        return Place("none", reasons=(f"{VARIABLE} is {asked!r}",), hint=f"unset {VARIABLE}")
    two = _two(_standings(proc))
    if two is None or asked in ("hybrid", "v1"):
        return Place("none", hint=room.remedy(two))
    unit = two.own if told and two.own and os.path.basename(two.own) == told else None
    found = room.below(two, told=unit)
    reasons = found.reasons
    if found.folder is not None:
        kind = room.kind(two, found.folder)
        if asked in (None, kind) and found.controllers & room.WORTH:
            return Place(kind, (Hierarchy(2, found.folder, found.controllers, two.point),), found.moved)
        has = " ".join(sorted(found.controllers)) or "no controllers"
        reasons = (f"{found.folder} is a {kind} place with {has}", *reasons)
    return Place("none", reasons=reasons, hint=room.remedy(two))


def older(near: Place, asked: str | None = None, proc: str = "/proc/self") -> Place:
    """Version 1's hierarchies where they are ours to write, with version 2's beside them; else *near*, with the reasons."""
    standing, reasons = _standings(proc), list(near.reasons)
    if asked in (None, "hybrid", "v1"):
        ours = [s for s in standing if _writable_v1(s, reasons)]
        one = [Hierarchy(1, s.own, s.controllers, s.point) for s in ours if s.own]
        if one and (asked is not None or any(h.controllers & room.WORTH for h in one)):
            unified = _unified(_two(standing)) if asked != "v1" else None
            if unified is not None:
                return Place("hybrid", (unified, *one), reasons=tuple(reasons))
            if asked != "hybrid":
                return Place("v1", tuple(one), reasons=tuple(reasons))
    if not standing:
        reasons.append("no cgroup file system is mounted")
    return Place("none", reasons=tuple(dict.fromkeys(reasons)), hint=writable_cgroup(probe()) or near.hint)


def _two(standing: list[Standing]) -> Standing | None:
    return next((s for s in standing if s.version == 2), None)


def _standings(proc: str) -> list[Standing]:
    try:
        return list(standings(files.read(f"{proc}/mountinfo"), files.read(f"{proc}/cgroup")))
    except CgroupError:
        return []  # no /proc: nothing can be known, so nothing is there


def _writable_v1(standing: Standing, reasons: list[str]) -> bool:
    if standing.version != 1:
        return False
    if standing.own is None or standing.readonly or not os.access(standing.own, os.W_OK):
        what = "read-only" if standing.readonly else "not ours to write"
        reasons.append(f"{standing.own or standing.point} is {what}")
        return False
    return True


def _unified(two: Standing | None) -> Hierarchy | None:
    """Version 2 beside version 1: it kills, freezes and counts processor time even without one controller."""
    if two is None or two.own is None or two.readonly or not os.access(two.own, os.W_OK):
        return None
    found = room.below(two, moving=False)
    if found.folder is None:
        return Hierarchy(2, two.own, frozenset(), two.point)
    return Hierarchy(2, found.folder, found.controllers, two.point)


def _given(path: str) -> Place:
    """The directory that the user names: a version 2 cgroup delegated to us, which needs no process in it."""
    if not os.path.isfile(f"{path}/cgroup.subtree_control"):
        raise CgroupError(
            f"{VARIABLE} names no version 2 cgroup", path=path, hint="name a directory below a cgroup2 mount"
        )
    if (why := room.obstacle(path)) is not None:
        return Place("none", reasons=(why,), hint=f"sudo chown -R $USER {path}, and no process in it")
    own = next((s.own for s in _standings("/proc/self") if s.version == 2 and s.own), None)
    if own is not None and (why := room.reachable(path, own)) is not None:
        return Place(
            "none", reasons=(why,), hint="start this program in a child of it (echo its pid > cgroup.procs)"
        )
    return Place("delegated", (Hierarchy(2, path, room.controllers(path), path),))


async def _systemd(near: Place, *, asked: str | None, environ: Mapping[str, str]) -> Place:
    """Our own unit where systemd says it is delegated, or a scope of our own; else *near* with one more reason.

    Raises CgroupError where D-Bus is not well, or systemd refuses.
    """
    from . import systemd  # D-Bus is loaded only where it is asked

    own = memberships(files.read_or("/proc/self/cgroup")).get("", "")
    name = os.path.basename(own)
    if asked == "systemd" and room.in_scope(own):
        return _scope(near)
    if (why := systemd.absent(environ)) is not None:
        return _because(near, why)
    two = _two(_standings("/proc/self"))
    if two is None or not room.controllers(two.point) & room.WORTH:
        return _because(near, "systemd's scopes have no controllers here: they are version 1's")
    if asked != "systemd" and await systemd.delegates(environ, name):
        near = here(asked, told=name)
    if near.usable or asked == "delegated":
        return near
    if name.endswith(".service") and asked is None:
        hint = f"add Delegate=yes to {name}'s [Service] section, or set {VARIABLE}=systemd to be moved out of it"
        return _because(near, f"{own} is a service that systemd did not give us alone", hint)
    await systemd.enter_scope(environ)
    return _scope(near)


def _scope(near: Place) -> Place:
    """The place in the scope that we are in."""
    inside = here()
    if inside.usable:
        return Place("systemd", inside.hierarchies, inside.moved, near.reasons)
    return _because(inside, "systemd made a scope that gives no room", near.hint)


def _because(place: Place, reason: str, hint: str | None = None) -> Place:
    """*place* with one more reason why it is none."""
    return Place(place.kind, place.hierarchies, place.moved, (*place.reasons, reason), hint or place.hint)

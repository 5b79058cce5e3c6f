"""What a container asks around for a command: who its user is inside, its cgroup, its figures, why it was refused."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from .errors import CgroupError, FileError, SpecError
from .machine import Machine, probe
from .plan.command import Account, Limited
from .plan.compile import Plan, account_of
from .results import Exit, Reason, Usage
from .spec.checks import changed
from .spec.filesystem import Bind
from .spec.limits import Limits
from .spec.spec import Spec

if TYPE_CHECKING:
    from .cgroups.group import Group

__all__ = ["account", "derive", "look_up", "make_group", "measured", "rlimits", "why", "without_missing"]

_OF_A_COMMAND = frozenset(
    ("env", "inherit_env", "cwd", "user", "groups", "stdin", "stdout", "stderr", "tty", "pass_fds", "rlimits", "umask", "nice",
     "oom_score_adj", "limits")
)  # fmt: skip
_ACCOUNTS = 1 << 20  # bytes of /etc/passwd that are read: it is the guest's, and may be anything
RESERVE = 4096  # of our own hard limit of descriptors, as many at most are kept from guests
KINDS = 64  # of commands that are remembered


_PLAIN = frozenset((str, int, bool, type(None)))
_derived: dict[object, tuple[Spec, Spec]] = {}


def derive(spec: Spec, fields: dict[str, Any]) -> tuple[Spec, dict[str, str]]:
    """The container's Spec with what differs for a command, whatever its words are; and the variables that are added to its own.

    The latter are handed on as a caller's that the command inherits: so they come last, and add to the defaults too, of which HOME
    is only known once it is known who the command is.
    """
    if not all(type(value) in _PLAIN for value in fields.values()):
        return _derive(spec, fields)
    key = id(spec), *((name, type(value), value) for name, value in fields.items())
    found = _derived.get(key)
    if found is None:
        derived, _ = _derive(spec, fields)
        if len(_derived) >= KINDS:
            del _derived[next(iter(_derived))]
        found = _derived[key] = spec, derived  # the first is kept with it, so that its id stays its own
    return found[1], {}


def _derive(spec: Spec, fields: dict[str, Any]) -> tuple[Spec, dict[str, str]]:
    for name in fields:
        if name not in _OF_A_COMMAND:
            raise SpecError(name, fields[name], f"a command in a live container can have {', '.join(sorted(_OF_A_COMMAND))}")
    changes = {"stdin": "pipe", "stdout": "pipe", "stderr": "pipe", "tty": None, "pass_fds": (), "limits": None, **fields}
    derived = changed(spec, changes)
    added = (derived.env or {}) if fields.get("env") is not None else {}
    if "env" in fields:
        names = (*derived.inherit_env, *(name for name in added if name not in derived.inherit_env))
        derived = changed(derived, {"env": spec.env, "inherit_env": names})
    return derived, added


def needs_lookup(spec: Spec) -> bool:
    """Whether the command's user or groups are names, which only the container's own files can tell."""
    ref = spec.user_ref
    named = ref is not None and (ref.name is not None or ref.group is not None)
    return named or any(isinstance(group, str) for group in spec.groups or ())


def account(spec: Spec, machine: Machine, plan: Plan) -> Account | None:
    """Who the command is, where its Spec alone says it."""
    return account_of(spec, machine, plan.who)


async def look_up(spec: Spec, plan: Plan, read: Callable[[str, int], Awaitable[bytes]]) -> Account:
    """Who the command is by the container's own /etc/passwd and /etc/group; numbers always win over names."""
    ref = spec.user_ref
    users, no_users = await _table(read, "/etc/passwd", 7)
    groups, no_groups = await _table(read, "/etc/group", 4)
    uid, gid, home, name = plan.who.uid, plan.who.gid, None, None
    if ref is not None and ref.name is not None:
        row = next((row for row in users if row[0] == ref.name), None)
        if row is None:
            raise SpecError("user", spec.user, f"the container's /etc/passwd {no_users or 'has no such user'}: give a uid, or add a line there")
        name, uid, gid, home = row[0], int(row[2]), int(row[3]), row[5]
    elif ref is not None and ref.uid is not None:
        uid = ref.uid
        gid = ref.uid if plan.who.maps_group(ref.uid) else plan.who.gid
    if ref is not None and ref.gid is not None:
        gid = ref.gid
    elif ref is not None and ref.group is not None:
        gid = _group(ref.group, groups, "user", spec.user, no_groups)
    if spec.groups is not None:
        extra = [item if isinstance(item, int) else _group(item, groups, "groups", item, no_groups) for item in spec.groups]
    else:
        extra = [int(row[2]) for row in groups if name is not None and name in row[3].split(",") and int(row[2]) != gid]
        extra = [item for item in extra if plan.who.maps_group(item)]
    return Account(uid, gid, tuple(extra), home)


async def _table(read: Callable[[str, int], Awaitable[bytes]], path: str, columns: int) -> tuple[list[list[str]], str]:
    """The lines of passwd(5) or group(5) that are whole, and why there are none; the rest of a hostile file is passed over."""
    try:
        content = await read(path, _ACCOUNTS)
    except OSError as error:
        return [], f"can't be read ({os.strerror(error.errno or 0)})"
    rows = []
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        row = line.split(":")
        if len(row) == columns and _is_id(row[2]) and (columns == 4 or _is_id(row[3])):
            rows.append(row)
    return rows, ""


def _is_id(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 11 and int(word) < 2**32 - 1


def _group(name: str, rows: list[list[str]], field: str, value: object, unread: str) -> int:
    row = next((row for row in rows if row[0] == name), None)
    if row is None:
        raise SpecError(field, value, f"the container's /etc/group {unread or f'has no group {name!r}'}: give a gid, or add a line there")
    return int(row[2])


def without_missing(spec: Spec) -> Spec:
    """The Spec without the optional binds whose source is not there."""
    if not any(isinstance(mount, Bind) and mount.optional for mount in spec.mounts):
        return spec
    there = [mount for mount in spec.mounts if not (isinstance(mount, Bind) and mount.optional) or os.path.lexists(mount.source)]
    return attrs.evolve(spec, mounts=there)


def rlimits() -> Limited:
    """What a command has where its Spec does not say otherwise.

    No core dumps: a limit of 1, since 0 does not keep a pipe handler away (core(5)); or what the caller may set. And fewer
    descriptors than we may have: those that are on their way between processes are counted for a user as a whole, so a guest
    that floods it must meet its limit before we meet ours (unix(7), ETOOMANYREFS). Nor a rank that we may have without a capability:
    real-time scheduling and better nice values (sched(7)), as a user of sound or a service is given them.
    """
    core = resource.getrlimit(resource.RLIMIT_CORE)[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard - min(RESERVE, hard // 4)
    ranks = tuple((name, (0, 0)) for name in ("nice", "rtprio") if resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1])
    return ("core", (1, 1) if core != 0 else (0, 0)), ("nofile", (min(soft, most), most)), *ranks


async def make_group(name: str, limits: Limits) -> Group:
    """The container's cgroups with its limits in force. Raises UnsupportedError, CgroupError."""
    from .cgroups import find_place_async

    place = await find_place_async()
    return place.create(name, limits)


def measured(exit: Exit, group: Group) -> Exit:
    """An Exit with what the cgroup counted: processor time, peak and OOM kills of everything that was ever in it."""
    try:
        cpu, peak, kills = group.cpu_usage(), group.peak(), group.oom_kills()
        refused = group.events().pids_max if group.limits.pids is not None and not exit.ok else 0
    except (CgroupError, OSError):
        return exit  # removed under our feet
    changes: dict[str, Any] = {}
    if cpu is not None:
        changes |= {"user": cpu.user, "system": cpu.system, "throttled": cpu.throttled}
    if peak is not None:
        changes["memory_peak"] = peak
    if (stalled := group.stalled()) is not None:
        changes["stalled"] = stalled
    detail = exit.detail.copy()
    if exit.reason is Reason.OOM and peak is not None:
        detail["peak"] = peak
    if refused:
        detail["pids_refused"] = refused
    usage = attrs.evolve(exit.usage, scope="container", **changes)
    return attrs.evolve(exit, usage=usage, oom_kills=max(exit.oom_kills, kills), detail=detail)


def usage_of(used: tuple[int, ...], wall: float, alone: bool) -> Usage:
    """What wait4(2) says of the first process. Where that is our init (not `alone`), its peak is no figure of a guest's."""
    peak = used[2] * 1024 if alone else None
    return Usage(user=used[0] / 1e6, system=used[1] / 1e6, wall=wall, memory_peak=peak, blocks_read=used[3], blocks_written=used[4])


def figures(pid: int) -> tuple[float, float, int | None]:
    """User and system seconds of a process and what it has waited for, and its peak in bytes: proc_pid_stat(5).

    For one that is about to be killed together with its reaper, which then tells nobody. Raises OSError, ValueError.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    user, system, waited_user, waited_system = (int(item) / ticks for item in fields[11:15])
    peak = None
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                peak = int(line.split()[1]) * 1024
    return user + waited_user, system + waited_system, peak


def why(what: str, error: int) -> tuple[str, str]:
    """Why namespaces ("clone3"), a folder as a layer ("layer PATH") or the mount of a kind of file system are forbidden here, and what to do: by probing."""
    from .diagnose import (
        gather,
        mounted_below,
        why_filtered,
        why_no_layer,
        why_no_mount,
        why_no_own_id,
        why_no_userns,
    )

    machine = probe()
    if what.startswith("clone3"):
        found = why_no_userns(machine, error, user=what == "clone3")
    elif what == "uid_map":
        found = why_no_own_id(machine, error)
    elif what.startswith("layer "):
        found = why_no_layer(mounted_below(what.removeprefix("layer ")))
    elif what.startswith("set"):
        found = why_filtered(machine, what, error)
    else:
        found = why_no_mount(machine, error, what, gather(machine, error))
    return found.sentence, found.hint


def read_regular(fd: int, path: str, limit: int) -> bytes:
    """The bytes of a regular file, `limit` at most. Raises FileError for what is no file, or larger."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise FileError(path, errno.EINVAL)
    content = bytearray()
    while len(content) <= limit:
        part = os.read(fd, min(1 << 20, limit + 1 - len(content)))
        if not part:
            return bytes(content)
        content += part
    raise FileError(path, errno.EFBIG)


def resize(fd: int, rows: int, columns: int) -> None:
    """ioctl_tty(2), TIOCSWINSZ."""
    if not all(type(number) is int and 0 < number < 65536 for number in (rows, columns)):
        raise SpecError("tty", (rows, columns), "give (rows, columns), each from 1 to 65535")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

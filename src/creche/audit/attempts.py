"""What an audit tries from inside a container, and by which answers of the kernel's a promise holds; pure."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence

from attrs import frozen

from ..plan.seccomp import Filter, verdict
from ..plan.seccomp.numbers import numbers
from ..plan.seccomp.rules import Kind
from ..spec.filesystem import HostView
from ..spec.spec import Spec

__all__ = ["LAST", "Attempt", "Call", "answers", "attempts", "encoded"]

MOST = 65_536  #: bytes of a request: native/probe.c
_HEAD, _TRIAL = struct.Struct("=QQ"), struct.Struct("=QII6Q")
_SCRATCH = b"\0" * 8
AT_FDCWD, NEWUSER, TIOCSTI = -100, 0x1000_0000, 0x5412
NNP, AMBIENT, RAISE = 39, 47, 2  # prctl(2)
NET_RAW, CHARACTER = 13, 0o020600


class _Last:
    """Stands for the answer to the call before: a descriptor."""


LAST = _Last()


@frozen
class Call:
    """One system call: its name and arguments, texts as bytes."""

    name: str
    args: tuple[int | bytes | _Last, ...]


def _call(name: str, *args: int | bytes | _Last) -> Call:
    return Call(name, args)


@frozen
class Attempt:
    """Calls one after another, of which the last one's answer says whether the promise holds; whatever succeeds has changed nothing."""

    field: str
    promise: str
    calls: tuple[Call, ...]
    held: frozenset[int] | None = None  #: the answers by which it holds; None: any errno


#: Doors that a filter shuts, with arguments by which nothing would happen behind them.
_DOORS = (
    ("unshare", (NEWUSER,), "no user namespace of its own, and every capability in it"),
    ("clone3", (0, 0), "no namespace by flags that no filter sees"),
    ("bpf", (0xFFFF, 0, 0), "no program in the kernel"),
    ("io_uring_setup", (0, 0), "no call made past the filter"),
    ("keyctl", (0xFFFF, 0, 0, 0, 0), "no key of the user's"),
    ("perf_event_open", (0, 0, AT_FDCWD, AT_FDCWD, 0), "no counter or trace of the kernel's"),
    ("userfaultfd", (0xFFFF,), "no stop in the middle of the kernel's copies"),
    ("open_by_handle_at", (AT_FDCWD, 0, 0), "no file by number instead of by name"),
    ("process_vm_readv", (0, 0, 0, 0, 0, 1), "no memory of other processes"),
)
_TELLING = ("/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/interrupts", "/proc/timer_list", "/proc/iomem")
_SETTINGS = ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger")
_HOSTS = ("/etc/shadow", "/home", "/root", "/run/docker.sock", "/var/lib")


def attempts(spec: Spec, filter: Filter | None) -> tuple[Attempt, ...]:
    """The table of what this Spec promises and a guest can try, with this filter in force."""
    found = (*_filtered(filter), *_privileges(spec), *_network(spec, filter), *_files(spec), *_init(spec))
    known = numbers(filter.arch if filter is not None else os.uname().machine)
    return tuple(attempt for attempt in found if all(call.name in known and _survived(filter, call) for call in attempt.calls))


def _survived(filter: Filter | None, call: Call) -> bool:
    """Whether the filter lets its caller live: a kill is an answer to whoever asks no more."""
    if filter is None:
        return True
    values = tuple(arg % 2**64 if isinstance(arg, int) else 0 for arg in call.args)
    return verdict(filter, call.name, values).kind in (Kind.ALLOW, Kind.ERRNO, Kind.LOG)


def _filtered(filter: Filter | None) -> Iterator[Attempt]:
    if filter is None or filter.needs_listener:  # what is reported would be told as a guest's own
        return
    known = numbers(filter.arch)
    for name, args, promise in _DOORS:
        answer = verdict(filter, name, tuple(arg % 2**64 for arg in args)) if name in known else None
        if answer is not None and answer.kind is Kind.ERRNO:
            yield Attempt("security.seccomp", f"{promise} ({name})", (_call(name, *args),), frozenset((-answer.data,)))
    for family, name in ((17, "AF_PACKET"), (40, "AF_VSOCK"), (38, "AF_ALG")):
        answer = verdict(filter, "socket", (family, 2, 0))
        if answer.kind is Kind.ERRNO:
            yield Attempt("security.seccomp", f"no socket of the family {name}", (_call("socket", family, 2, 0),), frozenset((-answer.data,)))


def _privileges(spec: Spec) -> Iterator[Attempt]:
    security = spec.security
    if security.no_new_privs:
        yield Attempt("security.no_new_privs", "no program gains anything by being setuid", (_call("prctl", NNP, 0, 0, 0, 0),), frozenset((1,)))
    if security.privileged:
        return
    had = set(security.capabilities)
    if "CAP_SETGID" not in had:
        yield Attempt("security.capabilities", "no group can be dropped", (_call("setgroups", 0, 0),))
    if "CAP_MKNOD" not in had:
        node = b"/tmp/.creche-audit"
        yield Attempt("security.capabilities", "no device can be made", (_call("mknodat", AT_FDCWD, node, CHARACTER, 0x103),))
    if "CAP_SYS_NICE" not in had and spec.nice is None:
        yield Attempt("security.capabilities", "no rank above the host's programs", (_call("setpriority", 0, 0, -20),))
    if "CAP_NET_RAW" not in had:
        yield Attempt("security.capabilities", "no capability for the next program", (_call("prctl", AMBIENT, RAISE, NET_RAW, 0, 0),))


def _network(spec: Spec, filter: Filter | None) -> Iterator[Attempt]:
    if spec.namespaces.network is not True:
        return
    if filter is not None and filter.needs_listener:
        return
    address = struct.pack("=H", 2) + struct.pack(">H4s8x", 9, bytes((192, 0, 2, 1)))  # TEST-NET-1, RFC 5737
    yield Attempt("namespaces.network", "no way to a network (connect to 192.0.2.1)", (_call("socket", 2, 2, 0), _call("connect", LAST, address, 16)))


def _opened(path: str, flags: int) -> Call:
    return _call("openat", AT_FDCWD, path.encode(), flags | os.O_NONBLOCK | os.O_NOCTTY, 0o600)


def _files(spec: Spec) -> Iterator[Attempt]:
    security = spec.security
    if spec.namespaces.mount is not True or security.privileged or spec.namespaces.pid is not True:
        return
    shown = {mount.target for mount in spec.mounts if mount.target}
    if security.readonly_paths is None and "/proc" not in shown:
        for path in _SETTINGS:
            yield Attempt("security.readonly_paths", f"{path} can't be written to", (_opened(path, os.O_WRONLY),))
    if security.masked_paths is None and "/proc" not in shown:
        for path in _TELLING:
            calls = (_opened(path, os.O_RDONLY), _call("read", LAST, _SCRATCH, 1))
            yield Attempt("security.masked_paths", f"{path} tells nothing", calls, frozenset((0, *(-number for number in errno.errorcode))))
    if isinstance(spec.rootfs, HostView):
        for path in sorted({"/", "/usr", "/etc"} - shown):
            yield Attempt("rootfs", f"nothing can be made in {path}", (_opened(path, os.O_WRONLY | os.O_TMPFILE),))
        for path in _HOSTS:
            if not any(target == path or target.startswith(path + "/") or path.startswith(target + "/") for target in shown):
                yield Attempt("rootfs", f"the host's {path} is not there", (_opened(path, os.O_RDONLY),))
    yield Attempt("devices", "nothing can be typed into a terminal", (_opened("/dev/tty", os.O_RDWR), _call("ioctl", LAST, TIOCSTI, b"x")))


def _init(spec: Spec) -> Iterator[Attempt]:
    if spec.has_init and not spec.security.privileged:
        yield Attempt("init", "the init's memory is closed", (_opened("/proc/1/mem", os.O_RDONLY),))
        yield Attempt("init", "the init's descriptors are its own", (_call("pidfd_open", 1, 0), _call("pidfd_getfd", LAST, 0, 0)))


def encoded(table: Sequence[Attempt], arch: str) -> bytes:
    """The calls as native/probe.c reads them."""
    known, calls = numbers(arch), [call for attempt in table for call in attempt.calls]
    at, texts, trials = _HEAD.size + len(calls) * _TRIAL.size, b"", b""
    for call in calls:
        values, places, last = [0] * 6, 0, 0
        for index, arg in enumerate(call.args):
            if isinstance(arg, bytes):
                places |= 1 << index
                values[index] = at + len(texts)
                texts += (arg + b"\0").ljust((len(arg) + 8) // 8 * 8, b"\0")
            elif isinstance(arg, int):
                values[index] = arg % 2**64
            else:
                last |= 1 << index
        trials += _TRIAL.pack(known[call.name], places, last, *values)
    size = at + len(texts)
    assert size <= MOST
    return _HEAD.pack(size, len(calls)) + trials + texts


def answers(table: Sequence[Attempt], told: bytes) -> list[int | None]:
    """Each attempt's answer, in order: that of the call which failed, else the last; None from where on nothing was told any more."""
    results = [int(value) for (value,) in struct.iter_unpack("=q", told[: len(told) // 8 * 8])]
    found: list[int | None] = []
    for attempt in table:
        own, results = results[: len(attempt.calls)], results[len(attempt.calls) :]
        found.append(next((answer for answer in own if answer < 0), own[-1]) if len(own) == len(attempt.calls) else None)
    return found

"""What a container promises beside what the kernel says: of a process in it (the host's /proc), and to a probe inside. `Container.audit`."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence

from attrs import frozen

from .._native import ffi, lib
from ..errors import CrecheError
from ..plan.covered import MASKED, READONLY
from ..spec.filesystem import HostView
from ..spec.security import CAPABILITIES
from ..spec.spec import Spec
from .attempts import Attempt, answers

__all__ = ["Finding", "audit", "facts_of", "program", "tried"]

MFD_EXEC = 0x10  # linux/memfd.h
_KINDS = {"user": "user", "mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@frozen
class Finding:
    """One promise: the Spec's field behind it, what was promised, what the kernel says, and whether that is so."""

    field: str
    promise: str
    answer: str
    holds: bool


@frozen
class Facts:
    """What the kernel says of one process, as text: of it and (namespaces) of ourselves."""

    status: dict[str, str]
    namespaces: dict[str, str]
    ours: dict[str, str]
    uid_map: tuple[tuple[int, int, int], ...]
    mounts: tuple[str, ...]  #: lines of mountinfo
    core: str  #: the soft limit of core dumps
    cgroup: str


def facts_of(pid: int) -> Facts:
    """Read them. Raises CrecheError where the process is gone, or is not ours to look at."""

    def text(name: str) -> str:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    try:
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in text("status").splitlines())}
        links = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _KINDS.values()}
        ours = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in _KINDS.values()}
        first, outside, count = 0, 1, 2
        rows = [[int(part) for part in line.split()] for line in text("uid_map").splitlines()]
        core = next((line.split()[4] for line in text("limits").splitlines() if line.startswith("Max core file size")), "")
        return Facts(
            status, links, ours, tuple((row[first], row[outside], row[count]) for row in rows),
            tuple(text("mountinfo").splitlines()), core, text("cgroup"),
        )  # fmt: skip
    except OSError as error:
        raise CrecheError(f"process {pid} can't be looked at: {error.strerror}; audit while a command runs in the container") from None


def program() -> int:
    """A descriptor of the probe: sealed, and no one's to read, so that no guest can trace what it runs as (ptrace(2))."""
    size = ffi.new("unsigned *")
    elf = bytes(ffi.buffer(lib.creche_probe(size), size[0]))
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        writing = os.memfd_create("creche-probe", flags | MFD_EXEC)
    except OSError:  # before Linux 6.3
        writing = os.memfd_create("creche-probe", flags)
    try:
        os.write(writing, elf)
        fcntl.fcntl(writing, fcntl.F_ADD_SEALS, 0xF)
        reading = os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
        os.fchmod(writing, 0o111)  # nosec B103: nobody may read it
        return reading
    finally:
        os.close(writing)


def tried(table: Sequence[Attempt], told: bytes) -> Iterator[Finding]:
    """What was tried from inside, by the answers that the probe told. Pure."""
    for attempt, answer in zip(table, answers(table, told), strict=True):
        if answer is None:  # never taken for a promise that holds
            raise CrecheError(f"the audit was ended from outside while it tried whether {attempt.promise}")
        said = errno.errorcode.get(-answer, str(answer)) if answer < 0 else f"it answered {answer}"
        yield Finding(attempt.field, attempt.promise, said, answer < 0 if attempt.held is None else answer in attempt.held)


def audit(spec: Spec, facts: Facts) -> tuple[Finding, ...]:
    """The table. Pure: the same Spec and facts give the same findings. What the Spec does not promise is not in it."""
    return (*_privileges(spec, facts), *_separate(spec, facts), *_files(spec, facts))


def _privileges(spec: Spec, facts: Facts) -> Iterator[Finding]:
    security, status = spec.security, facts.status
    if not security.privileged or security.capabilities:
        allowed = sum(1 << CAPABILITIES.index(name) for name in security.capabilities)
        sets = {name: int(status[name], 16) for name in _SETS}
        answer = ", ".join(f"{name} {value:x}" for name, value in sets.items())
        promise = "no capability in any set" if not allowed else f"no capability but {', '.join(security.capabilities)}"
        yield Finding("security.capabilities", promise, answer, not any(value & ~allowed for value in sets.values()))
    if security.no_new_privs:
        value = status["NoNewPrivs"]
        yield Finding("security.no_new_privs", "no program gains anything by being setuid", f"NoNewPrivs {value}", value == "1")
    if security.seccomp is not None:
        mode, count = status["Seccomp"], status.get("Seccomp_filters", "?")
        # One of them is the init's own (plan.guard), which is not the one that was promised.
        needed = 2 if spec.has_init and spec.namespaces.user is not False and not security.privileged else 1
        filtered = mode == "2" and (not count.isdecimal() or int(count) >= needed)
        yield Finding("security.seccomp", "system calls are filtered", f"Seccomp {mode}, filters {count}", filtered)
    if "core" not in spec.rlimits:
        yield Finding("rlimits.core", "no core dump, nor a handler of one", f"at most {facts.core} bytes", facts.core in ("0", "1"))


def _separate(spec: Spec, facts: Facts) -> Iterator[Finding]:
    for name, kind in _KINDS.items():
        if getattr(spec.namespaces, name) is True:
            there = facts.namespaces[kind]
            yield Finding(f"namespaces.{name}", f"a {name} namespace of its own", there, there != facts.ours[kind])
    if spec.namespaces.user is True and spec.uid_map is None:
        told = "; ".join(f"{inside} is {outside}, {count} ids" for inside, outside, count in facts.uid_map)
        own = os.geteuid() and any(outside <= os.geteuid() < outside + count for _, outside, count in facts.uid_map)
        whole = any(outside == 0 for _, outside, _ in facts.uid_map)
        yield Finding("uid_map", "the host's root is nobody inside", told + (" (the caller's own)" if own else ""), not whole)
    if spec.limits:
        lines = facts.cgroup.split()
        yield Finding("limits", "in a cgroup of the container's", " ".join(lines), any("creche" in line for line in lines))


def _files(spec: Spec, facts: Facts) -> Iterator[Finding]:
    if spec.namespaces.mount is not True or spec.rootfs is None:
        return
    rows = [(parts[4], set(parts[5].split(",")), parts[6:]) for parts in (line.split(" ") for line in facts.mounts)]
    shared = [path for path, _, rest in rows if any(item.startswith(("shared:", "master:")) for item in rest[: rest.index("-")])]
    yield Finding("rootfs", "no mount comes in or gets out", _told(shared, "shared", "all are private"), not shared)
    if isinstance(spec.rootfs, HostView):
        # the last of several mounts at "/" is the one that is seen
        root = [flags for path, flags, _ in rows if path == "/"][-1]
        yield Finding("rootfs", "the root is read-only", ",".join(sorted(root)), "ro" in root)
        open_ = [path for path, flags, _ in rows if path.startswith(("/usr", "/opt", "/etc")) and "ro" not in flags and not _spec_mounts(spec, path)]
        yield Finding("rootfs", "the host's programs are read-only", _told(open_, "writable", "all are ro"), not open_)
    if spec.security.no_new_privs and not spec.security.privileged:
        suid = [path for path, flags, _ in rows if "nosuid" not in flags and not _spec_mounts(spec, path)]
        yield Finding("rootfs", "no setuid bit counts on any mount", _told(suid, "without nosuid", "all are nosuid"), not suid)
    dev = [path for path, flags, _ in rows if "nodev" not in flags and not path.startswith("/dev/") and not _spec_mounts(spec, path)]
    yield Finding("devices", "no device node works but those of /dev", _told(dev, "without nodev", "all are nodev"), not dev)
    if spec.security.privileged or spec.namespaces.pid is not True or _spec_mounts(spec, "/proc"):
        return
    mounted = {path: flags for path, flags, _ in rows}
    if spec.security.readonly_paths is None:
        open_ = [path for path in READONLY if path == "/proc/sys" and "ro" not in mounted.get(path, ())]
        yield Finding("security.readonly_paths", "the kernel's settings are read-only", _told(open_, "writable", "/proc/sys is ro"), not open_)
    if spec.security.masked_paths is None:
        covered = [path for path in MASKED if path in mounted]
        yield Finding("security.masked_paths", "files that tell of the kernel are covered", _told(covered, "covered", "none is there"), bool(covered))


def _spec_mounts(spec: Spec, path: str) -> bool:
    """Whether it is at or below a mount of the Spec's own, whose flags are the Spec's business."""
    targets = [mount.target for mount in spec.mounts if mount.target]
    return any(path == target or path.startswith(f"{target}/") for target in targets)


def _told(paths: list[str], word: str, otherwise: str) -> str:
    if not paths:
        return otherwise
    return f"{word}: {', '.join(paths[:5])}{f' and {len(paths) - 5} more' if len(paths) > 5 else ''}"

"""Small readers and parsers of /proc that Machine is made of; each gives "" or None for what can't be read."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import NamedTuple


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo, proc_pid_mountinfo(5), as far as anyone here asks."""

    point: str
    kind: str
    root: str
    readonly: bool


def text(path: str) -> str:
    """A file's text, or "" where it is missing or forbidden: absence is an answer here, never an error."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(parts))


def number(path: str) -> int | None:
    """A sysctl's whole number, or None where this kernel has no such sysctl."""
    found = text(path).strip()
    return int(found) if found.lstrip("-").isdecimal() else None


def names(path: str) -> tuple[str, ...]:
    """What a directory holds, or nothing."""
    try:
        return tuple(os.listdir(path))
    except OSError:
        return ()


def parse_release(release: str) -> tuple[int, int, int]:
    """uname's release to three numbers: "6.8.0-45-generic" to (6, 8, 0)."""
    digits = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if digits is None:
        return (0, 0, 0)
    return (int(digits[1]), int(digits[2]), int(digits[3] or 0))


def parse_status(status: str) -> dict[str, str]:
    """/proc/PID/status to its fields."""
    pairs = (line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {key: value.strip() for key, value in pairs}


@lru_cache(maxsize=1)  # asked at each start, of what seldom changes
def parse_mounts(mountinfo: str) -> tuple[Mount, ...]:
    """mountinfo to its mounts, in the kernel's order; octal escapes (\\040 for a space) undone."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")[0]
        if len(fields) >= 6:
            readonly = "ro" in fields[5].split(",")
            mounts.append(Mount(_unescape(fields[4]), kind, _unescape(fields[3]), readonly))
    return tuple(mounts)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


#: Places in /proc where the kernel itself keeps empty directories for mounts (proc_create_mount_point), which
#: mount_too_revealing() passes over, and so do we.
_MOUNT_POINTS = frozenset({"/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/openprom", "/proc/xen"})
_SYS_MOUNT_POINTS = (
    "/sys/fs/",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/security",
    "/sys/kernel/config",
    "/sys/firmware/efi/efivars",
    "/sys/hypervisor",
)


def masks(mounts: tuple[Mount, ...], top: str, kind: str) -> tuple[str, ...]:
    """The mounts that cover a part of the file system *kind* at *top*.

    The kernel lets a user namespace mount a fresh one only if a fully visible one is already there
    (fs/namespace.c, mnt_already_visible): a read-only one, or one partly covered, makes a fresh one "too revealing".
    """
    found: set[str] | None = None
    for whole in mounts:
        if whole.kind == kind and whole.root == "/":
            inside = whole.point.rstrip("/") + "/"
            below = {top + "/" + m.point.removeprefix(inside) for m in mounts if m.point.startswith(inside)}
            covered = {p for p in below if p not in _MOUNT_POINTS and not p.startswith(_SYS_MOUNT_POINTS)}
            found = covered if found is None or len(covered) < len(found) else found
    return tuple(sorted(found or ()))


def user_name(passwd: str, uid: int) -> str | None:
    """The login name of *uid* in passwd(5); read directly, since NSS may ask a network and block."""
    for line in passwd.splitlines():
        parts = line.split(":")
        if len(parts) >= 3 and parts[2] == str(uid):
            return parts[0]
    return None


def apparmor_label() -> str | None:
    """The AppArmor profile that confines us ("unconfined" included), or None where AppArmor is not at work."""
    if text("/sys/module/apparmor/parameters/enabled").strip() != "Y":
        return None
    current = text("/proc/thread-self/attr/apparmor/current") or text("/proc/thread-self/attr/current")
    return current.strip().rstrip("\0") or None


def engine(release: str, mounts: tuple[Mount, ...]) -> str | None:
    """Who runs the container or machine around us, by the marks they leave; a hint for wording, never a decision.

    The marks of an outer engine are still in view in a sandbox that shares its file system, so process 1 is asked
    first; and Docker always binds a resolv.conf of its own, without which its mark is a leftover.
    """
    first = text("/proc/1/comm").strip()
    if first in ("bwrap", "creche"):
        return first
    if "microsoft" in release.lower():
        return "wsl"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv") and any(mount.point == "/etc/resolv.conf" for mount in mounts):
        return "docker"
    named = os.environ.get("container") or text("/run/systemd/container").strip()  # noqa: SIM112 (systemd's name)
    return named or None

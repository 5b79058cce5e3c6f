"""Causes of a start that fails, each as a person would bring it about; the tests assert on them, and docs/errors.md quotes them."""

from __future__ import annotations

import errno as e
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import field, frozen

import creche
from creche import (
    Bind,
    Directory,
    File,
    IdMap,
    Namespaces,
    Overlay,
    SeccompRules,
    Security,
    SpawnError,
    SpecError,
    Symlink,
    Tmpfs,
    UnsupportedError,
)
from creche.spec import Landlock

ROOT = os.geteuid() == 0
AS_ROOT: dict[str, Any] = {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]} if ROOT else {}


@frozen(kw_only=True)
class Cause:
    """What is given, and what must come of it."""

    what: str  #: in the words of docs/errors.md
    given: Callable[[Path], dict[str, Any]]  #: the fields of a Spec; the folder holds a root called `image`
    error: type[creche.CrecheError] = SpawnError
    field: str | None
    errno: int | tuple[int, ...] | None = None
    says: tuple[str, ...]  #: words that the text must hold: the path or value, and what to do
    needs: tuple[str, ...] = ()
    command: list[str] = field(factory=lambda: ["true"])


def _image(folder: Path, **kwargs: Any) -> dict[str, Any]:
    return {"rootfs": Directory(folder / "image", **kwargs)}


def _file(content: bytes, mode: int = 0o755, **kwargs: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"mounts": [File("/prog", content, mode=mode)], **kwargs}


def _made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).mkdir(parents=True)
    return [folder / name for name in names]


def _loader(folder: Path) -> dict[str, Any]:
    return {**_image(folder), "mounts": [Bind(os.path.realpath(sys.executable), "/python", readonly=True)]}


def _foreign(folder: Path) -> bytes:
    machine = 0xF3  # EM_RISCV
    return b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(100)


def _upper_elsewhere(folder: Path) -> dict[str, Any]:
    lower, upper = _made(folder, "lower", "upper")
    return {"mounts": [Overlay([lower], upper, _elsewhere(folder), target="/o")], **AS_ROOT}


def _elsewhere(folder: Path) -> str:
    """An empty directory on another file system; the test removes it."""
    path = f"/dev/shm/creche-test-work-{os.getpid()}"
    os.makedirs(path, exist_ok=True)
    return path


def _dangling(folder: Path) -> dict[str, Any]:
    (folder / "image/data").symlink_to("/nowhere/at/all")
    return {**_image(folder), "mounts": [Tmpfs("/data")]}


def _below_a_file(folder: Path) -> dict[str, Any]:
    return {**_image(folder), "mounts": [Tmpfs("/etc/passwd/x")]}


def _closed_mask(folder: Path) -> dict[str, Any]:
    """A folder of an id that no container has, in an image: not even the container's root gets there."""
    closed = folder / "image/closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 2**31, 2**31)
    return {**_image(folder), "security": Security(masked_paths=["/closed/x"])}


def _closed_cwd(folder: Path) -> dict[str, Any]:
    return {"mounts": [Tmpfs("/closed", mode=0o700)], "cwd": "/closed", "user": "7:7", **_many()}


def _many() -> dict[str, Any]:
    if ROOT:
        return {}
    from creche.machine import probe

    machine = probe()
    return {
        "uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, machine.subuid[0][0], 99)],
        "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, machine.subgid[0][0], 99)],
    }


def _layers(*, lower: str = "lower", upper: str = "upper", work: str = "work", make: tuple[str, ...] = ("lower", "upper", "work")) -> Callable[[Path], dict[str, Any]]:
    def given(folder: Path) -> dict[str, Any]:
        _made(folder, *make)
        return {"mounts": [Overlay([folder / lower], folder / upper, folder / work, target="/o")]}

    return given


MANY_IDS = () if ROOT else ("subids", "newuidmap")

CAUSES: dict[str, Cause] = {
    # ---- the command ----
    "command-not-found": Cause(what="the command is not on the PATH", given=lambda f: {}, command=["no-such-program"], field="command", errno=e.ENOENT,
                               says=("'no-such-program'", "/usr/local/sbin:/usr/local/bin", "install it")),
    "command-path": Cause(what="the command's path is not there", given=lambda f: {}, command=["/no/such/program"], field="command", errno=e.ENOENT, says=("'/no/such/program'", "in the container", "mount it")),
    "command-below-file": Cause(what="the command's path leads through a file", given=lambda f: {}, command=["/usr/bin/env/x"], field="command", errno=e.ENOTDIR, says=("/usr/bin/env/x", "a part of its path is a file")),
    "command-not-executable": Cause(what="the command is not executable", given=_file(b"#!/bin/sh\n", 0o644), command=["/prog"], field="command", errno=e.EACCES, says=("/prog", "not executable", "its mode lacks x")),
    "landlock-command": Cause(what="Landlock has no rule for the command", given=lambda f: {"security": Security(landlock=Landlock(read=["/usr"]))}, field="command", errno=e.EACCES, says=("security.landlock", "`execute`"), needs=("landlock",), command=["/usr/bin/true"]),
    "command-is-directory": Cause(what="the command is a directory", given=lambda f: {}, command=["/usr/bin/"], field="command", errno=e.EACCES, says=("/usr/bin/", "is a directory")),
    "command-noexec": Cause(what="the command lies on a mount with noexec", given=lambda f: {"mounts": [Bind("/usr/bin", "/n", readonly=True, noexec=True)]}, command=["/n/true"], field="command", errno=e.EACCES, says=("/n/true", "noexec")),
    "command-architecture": Cause(what="the command is for another processor", given=_file(_foreign(Path())), command=["/prog"], field="command", errno=e.ENOEXEC, says=("/prog", "another processor")),
    "command-no-shebang": Cause(what="the command is a script without #!", given=_file(b"echo hello\n"), command=["/prog"], field="command", errno=e.ENOEXEC, says=("/prog", "without #!")),
    "interpreter-missing": Cause(what="the program in the script's #! line is missing", given=_file(b"#!/opt/none/python\n"), command=["/prog"], field="command", errno=e.ENOENT, says=("/prog", "interpreter", "#! line")),
    "loader-missing": Cause(what="the binary's loader is missing", given=_loader, command=["/python"], field="command", errno=e.ENOENT, says=("/python", "interpreter", "loader"), needs=("busybox",)),
    "arguments-too-large": Cause(what="an argument is too large", given=lambda f: {}, command=["true", "x" * 200_000], error=SpecError, field="command[1]", says=("131071 bytes",)),
    "arguments-too-many": Cause(what="all arguments together are too large", given=lambda f: {}, command=["true", *["x" * 100_000] * 30], field="command", errno=e.E2BIG, says=("true", "a quarter of RLIMIT_STACK")),
    # ---- the working directory ----
    "cwd-missing": Cause(what="the working directory is not there", given=lambda f: {"cwd": "/no/such/folder"}, field="cwd", errno=e.ENOENT, says=("'/no/such/folder'", "make the directory")),
    "cwd-file": Cause(what="the working directory is a file", given=lambda f: {"cwd": "/etc/passwd"}, field="cwd", errno=e.ENOTDIR, says=("'/etc/passwd'", "give a directory")),
    "cwd-closed": Cause(what="the working directory is closed to the command's user", given=_closed_cwd, field="cwd", errno=e.EACCES, says=("'/closed'", "may not enter"), needs=MANY_IDS),
    # ---- the root ----
    "rootfs-missing": Cause(what="the rootfs is not there", given=lambda f: {"rootfs": Directory(f / "none")}, field="rootfs.path", errno=e.ENOENT, says=("/none'", "does not exist on the host")),
    "rootfs-file": Cause(what="the rootfs is a file", given=lambda f: {"rootfs": Directory("/etc/passwd")}, field="rootfs.path", errno=(e.ENOTDIR, e.EINVAL), says=("'/etc/passwd'", "must be a directory")),
    "rootfs-without-proc": Cause(what="a read-only rootfs has no /proc to mount on", given=lambda f: [(f / "image/proc").rmdir(), _image(f, readonly=True)][1], command=["/bin/true"], field="rootfs", errno=e.EROFS, says=("'/proc'", "must be there already"), needs=("busybox",)),
    "rootfs-proc-link": Cause(what="the rootfs's /proc is a link", given=lambda f: [(f / "image/proc").rmdir(), (f / "image/proc").symlink_to("/srv"), _image(f)][2], command=["/bin/true"], field="rootfs", errno=e.ENOTDIR, says=("'/proc'", "not a link"), needs=("busybox",)),
    # ---- overlays ----
    "lower-missing": Cause(what="a lower is not there", given=_layers(lower="none"), field="mounts[0].lower[0]", errno=e.ENOENT, says=("/none'", "does not exist on the host"), needs=("overlay",)),
    "upper-missing": Cause(what="the upper is not there", given=lambda f: {**_layers(make=("lower", "work"))(f), **AS_ROOT}, field="mounts[0].upper", errno=e.ENOENT, says=("/upper'", "does not exist on the host"), needs=("overlay",)),
    "upper-and-work-apart": Cause(what="upper and work lie on different file systems", given=_upper_elsewhere, field="mounts[0]", errno=(e.EINVAL, e.EXDEV), says=("upper and work", "one file system"), needs=("overlay",)),
    "upper-on-proc": Cause(what="the upper lies on a file system that can't be one", given=lambda f: [_made(f, "lower"), {"mounts": [Overlay([f / "lower"], "/proc/self/task", "/proc/self/fdinfo", target="/o")], **AS_ROOT}][1], field="mounts[0]", errno=(e.EINVAL, e.EPERM, e.EROFS), says=("upper", "extended attributes"), needs=("overlay",)),
    "lower-in-lower": Cause(what="a lower lies inside another", given=lambda f: [_made(f, "a/b"), {"mounts": [Overlay([f / "a", f / "a/b"], target="/o")]}][1], field="mounts[0]", errno=e.ELOOP, says=("lies in another",), needs=("overlay",)),
    # ---- mounts ----
    "bind-source-missing": Cause(what="a Bind's source is not there", given=lambda f: {"mounts": [Bind(f / "none", "/m", readonly=True)]}, field="mounts[0].source", errno=e.ENOENT, says=("/none'", "optional=True")),
    "bind-source-missing-writable": Cause(what="a writable Bind's source is not there", given=lambda f: {"mounts": [Bind(f / "none", "/m")]}, field="mounts[0].source", errno=e.ENOENT, says=("/none'", "optional=True")),
    "bind-not-idmapped": Cause(what="a writable Bind can't be idmapped", given=lambda f: {"mounts": [Bind("/proc/bus", "/m")]}, field="mounts[0].source", errno=(e.EINVAL, e.EPERM), says=("'/proc/bus'", "idmap=False"), needs=("root",)),
    "target-dangling": Cause(what="a target is a link that leads nowhere inside", given=_dangling, field="mounts[0].target", errno=e.ELOOP, says=("'/data'", "leads nowhere inside"), needs=("busybox",), command=["/bin/true"]),
    "target-below-file": Cause(what="a target lies below a file", given=_below_a_file, field="mounts[0].target", errno=e.ENOTDIR, says=("'/etc/passwd/x'", "is a file"), needs=("busybox",), command=["/bin/true"]),
    "target-read-only": Cause(what="a target is not there in a read-only place", given=lambda f: {"mounts": [Tmpfs("/usr/no-such")]}, field="mounts[0].target", errno=e.EROFS, says=("'/usr/no-such'", "read-only", "Overlay")),
    "target-wrong-kind": Cause(what="a directory is mounted on a file", given=lambda f: {"mounts": [Tmpfs("/etc/passwd")]}, field="mounts[0].target", errno=(e.EINVAL, e.ENOTDIR), says=("'/etc/passwd'", "file")),
    "symlink-exists": Cause(what="a Symlink's place is taken", given=lambda f: {"mounts": [Symlink("/x", "/etc/passwd")]}, field="mounts[0].target", errno=e.EEXIST, says=("'/etc/passwd'", "there already")),
    "disk-full": Cause(what="the file system of a target is full", given=lambda f: {"mounts": [Tmpfs("/t", inodes=1), File("/t/f", b"x")]}, field="mounts[1].target", errno=e.ENOSPC, says=("'/t/f'", "full")),
    "device-missing": Cause(what="a device is not there", given=lambda f: {"devices": ["/dev/no-such-device"]}, field="devices[0]", errno=e.ENOENT, says=("'/dev/no-such-device'", "does not exist on the host")),
    "target-in-proc": Cause(what="a target in /proc", given=lambda f: {"mounts": [Tmpfs("/proc/mine")]}, field="mounts[0].target", errno=e.ENOENT, says=("'/proc/mine'", "the kernel's")),
    "copy-up-of-nothing": Cause(what="copy_up of what is not there", given=lambda f: {"mounts": [Tmpfs("/tmp/none", copy_up=True)]}, field="mounts[0].target", errno=e.ENOENT, says=("'/tmp/none'", "leave copy_up out")),
    "tty-without-init": Cause(what="a terminal without an init", given=lambda f: {"tty": True, "init": False}, error=SpecError, field="tty", says=("init and namespaces.pid True",)),
    "tty-without-devpts": Cause(what="a terminal without a devpts", given=lambda f: {"mounts": [Tmpfs("/dev")], "tty": True}, field="tty", errno=e.EBADF, says=("devpts", "DevPts()")),
    # ---- who ----
    "id-not-in-subuid": Cause(what="an id is not yours to give", given=lambda f: {"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, os.getegid(), 1)]}, error=SpecError, field="uid_map[0]", says=("/etc/subuid", "add a line"), needs=("user",)),
    "user-unknown": Cause(what="the user is not known inside", given=lambda f: {**_image(f), "user": "nobody-here"}, error=SpecError, field="user", says=("'nobody-here'", "/etc/passwd", "add a line"), needs=("busybox", *MANY_IDS), command=["/bin/true"]),
    "group-unknown": Cause(what="a group is not known inside", given=lambda f: {**_image(f), "groups": ["nobodies"]}, error=SpecError, field="groups", says=("nobodies", "/etc/group", "add a line"), needs=("busybox", *MANY_IDS), command=["/bin/true"]),
    "user-not-mapped": Cause(what="the user's id is not mapped", given=lambda f: {"user": 5, **({"uid_map": [IdMap(0, os.geteuid(), 1)], "gid_map": [IdMap(0, os.getegid(), 1)]})}, error=SpecError, field="user", says=("uid 5", "widen uid_map")),
    "no-user-namespace": Cause(what="no user namespace, as root", given=lambda f: {"namespaces": Namespaces(user=False)}, error=SpecError, field="namespaces.user", says=("privileged=True",), needs=("root",)),
    "namespace-kind": Cause(what="a namespace of another kind", given=lambda f: {"namespaces": Namespaces(network="/proc/self/ns/uts")}, error=SpecError, field="namespaces.network", says=("/proc/self/ns/uts", "'uts'")),
    "namespace-gone": Cause(what="a namespace that is gone", given=lambda f: {"namespaces": Namespaces(network="/proc/999999999/ns/net")}, field="namespaces.network", errno=e.ENOENT, says=("/proc/999999999/ns/net", "of a process that lives")),
    "namespace-foreign": Cause(what="a namespace that is not yours to join", given=lambda f: {"namespaces": Namespaces(ipc="/proc/self/ns/ipc")}, field="namespaces.ipc", errno=e.EPERM, says=("setns", "join that one too"), needs=("user",)),
    # ---- what a command gets ----
    "descriptor-closed": Cause(what="a descriptor is not open", given=lambda f: {"pass_fds": [900]}, field="pass_fds[0]", errno=e.EBADF, says=("900 is not open", "keep it open")),
    "stdin-closed": Cause(what="stdin is a closed descriptor", given=lambda f: {"stdin": 901}, field="stdin", errno=e.EBADF, says=("901 is not open",)),
    "rlimit-above": Cause(what="an rlimit above your own", given=lambda f: {"rlimits": {"nofile": "unlimited"}}, field="rlimits.nofile", errno=e.EPERM, says=("ulimit -H",)),
    "nice-below": Cause(what="a nice value below your own", given=lambda f: {"nice": -5}, field="nice", errno=(e.EACCES, e.EPERM), says=("-5", "CAP_SYS_NICE")),
    "oom-score-below": Cause(what="an oom_score_adj below your own", given=lambda f: {"oom_score_adj": -500}, field="oom_score_adj", errno=(e.EACCES, e.EPERM), says=("'-500'", "CAP_SYS_RESOURCE")),
    "sysctl-unknown": Cause(what="a sysctl that this kernel lacks", given=lambda f: {"sysctl": {"net.ipv4.no_such": "1"}}, field="sysctl.net.ipv4.no_such", errno=e.ENOENT, says=("no_such", "has no such file")),
    "sysctl-value": Cause(what="a sysctl's value is refused", given=lambda f: {"sysctl": {"net.ipv4.ip_forward": "apples"}}, field="sysctl.net.ipv4.ip_forward", errno=e.EINVAL, says=("'apples'", "takes another value")),
    "time-below-zero": Cause(what="a clock below zero", given=lambda f: {"namespaces": Namespaces(time=True), "time_offsets": {"monotonic": -1e9}}, field="time_offsets", errno=e.ERANGE, says=("-1000000000", "below zero"), needs=("timens",)),
    "filter-without-nnp": Cause(what="a filter without no_new_privs", given=lambda f: {"security": Security(no_new_privs=False)}, error=SpecError, field="security.no_new_privs", says=("leave it True", "seccomp=None")),
    "traced-init": Cause(what="a capability by which a guest takes the init", given=lambda f: {"security": Security(capabilities=["CAP_SYS_PTRACE"])}, error=SpecError, field="security.capabilities", says=("CAP_SYS_PTRACE", "takes the container's init", "init=False", "security.privileged=True")),
    "listener-no-number": Cause(what="no number is left for a filter's listener", given=lambda f: {"security": Security(seccomp_report=True), "rlimits": {"nofile": 3}}, field="security.seccomp", errno=e.EMFILE, says=("the listener", "raise rlimits nofile")),
    "listener-nobody-answers": Cause(what="calls are handed over, and nobody could answer", given=lambda f: {"security": Security(seccomp=SeccompRules(notify=["mount"]))}, error=SpecError, field="security.seccomp", says=("nobody could answer", "syscalls()")),
    "mask-closed": Cause(what="a masked path to which the container's root can't get", given=_closed_mask, field="security.masked_paths", errno=e.EACCES, says=("'/closed/x'", "paths of your own"), needs=("root", "busybox"), command=["/bin/true"]),
    "apparmor-absent": Cause(what="an AppArmor profile where there is none", given=lambda f: {"security": Security(apparmor="no-such-profile")}, field="security.apparmor", errno=(e.ENOENT, e.EINVAL), says=("no-such-profile", "AppArmor")),
    "selinux-absent": Cause(what="an SELinux label where there is no SELinux", given=lambda f: {"security": Security(selinux="system_u:system_r:container_t:s0")}, error=UnsupportedError, field=None, says=("security.selinux", "not in force", "leave the field out")),
    "bind-maps": Cause(what="a Bind with maps of its own, as an ordinary user", given=lambda f: {"mounts": [Bind("/usr", "/m", uid_map=[IdMap(0, 0, 1)], gid_map=[IdMap(0, 0, 1)])]}, error=UnsupportedError, field=None, says=("id maps of its own", "root's power", "Spec.uid_map"), needs=("user",)),
    "bind-maps-inside": Cause(what="a Bind's maps name an id that the container has not", given=lambda f: {"mounts": [Bind(f, "/m", uid_map=[IdMap(65_530, 0, 10)], gid_map=[IdMap(0, 0, 1)])]}, error=SpecError, field="mounts[0].uid_map", says=("id 65536 is not mapped", "widen Spec.uid_map"), needs=("root",)),
    "bind-maps-file-system": Cause(what="a Bind with maps of its own can't be idmapped", given=lambda f: {"mounts": [Bind("/proc/bus", "/m", uid_map=[IdMap(0, 0, 1)], gid_map=[IdMap(0, 0, 1)])]}, field="mounts[0].source", errno=(e.EINVAL, e.EPERM), says=("'/proc/bus'", "leave its uid_map and gid_map out"), needs=("root",)),
}  # fmt: skip

"""Trying things out for the doctor: each in a child that ends at once, so nothing of it stays."""

from __future__ import annotations

import errno as e
import json
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial

import attrs

from . import _raw

__all__ = ["Trial", "run_trial"]

_NEWTIME, _NEWNS, _NEWCGROUP = 0x80, 0x20000, 0x02000000
_NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_FS, _PARENT_SETTID = 0x200, 0x100000
_MS_RDONLY, _MS_REC, _MS_PRIVATE = 1, 0x4000, 0x40000
_BAD_FLAG = 0x8000_0000

#: Namespaces that are tried one by one inside a fresh user namespace, by the word for them in a Spec.
_KINDS = {
    "mount": _NEWNS,
    "pid": _NEWPID,
    "network": _NEWNET,
    "ipc": _NEWIPC,
    "uts": _NEWUTS,
    "cgroup": _NEWCGROUP,
    "time": _NEWTIME,
}


@attrs.frozen
class Trial:
    """What was tried, and the errno that came back: 0 where it worked, negative where a signal ended the trier."""

    #: Calls whose arguments the kernel refuses; the value is what a filter answered instead, or 0.
    filtered: Mapping[str, int] = attrs.field(factory=dict)
    #: A user namespace, its id map, and inside it each namespace and file system.
    userns: int | None = None
    id_map: int | None = None
    namespaces: Mapping[str, int] = attrs.field(factory=dict)
    mounts: Mapping[str, int] = attrs.field(factory=dict)


def run_trial() -> Trial:
    """Try everything. For a process without other threads: it forks."""
    filtered = {name: _asked(name) for name in _QUESTIONS}
    if filtered["unshare"]:
        return Trial(filtered=filtered, userns=filtered["unshare"])
    answers = _in_child(_user_namespace)
    filtered |= {name[5:]: answer for name, answer in answers.items() if name.startswith("call ")}
    return Trial(
        filtered=filtered,
        userns=answers.get("userns", answers.get("died")),
        id_map=answers.get("id_map"),
        namespaces={name: answers[name] for name in _KINDS if name in answers},
        mounts={name[6:]: value for name, value in answers.items() if name.startswith("mount ")},
    )


#: Calls that the kernel itself always refuses, and with what; everything else comes from a filter.
_QUESTIONS: dict[str, tuple[tuple[int | bytes | None, ...], frozenset[int]]] = {
    "clone3": ((0, 0), frozenset({e.EINVAL})),  # size below CLONE_ARGS_SIZE_VER0
    "clone": ((_NEWUSER | _FS, 0, 0, 0, 0), frozenset({e.EINVAL})),  # CLONE_NEWUSER with CLONE_FS
    "unshare": ((_NEWUSER | _PARENT_SETTID,), frozenset({e.EINVAL})),  # no unshare flag
    "setns": ((-1, 0), frozenset({e.EBADF})),
    "mount": ((b"none", b"/nonexistent/creche", b"tmpfs", 0, 0), frozenset({e.ENOENT, e.ENOTDIR})),
    "open_tree": ((-1, b"/", _BAD_FLAG), frozenset({e.EINVAL})),
    "mount_setattr": ((-1, b"/", _BAD_FLAG, 0, 0), frozenset({e.EINVAL})),
    "fsconfig": ((-1, 0, 0, 0, 0), frozenset({e.EINVAL, e.EBADF})),
    "openat2": ((-1, b"/", 0, 0), frozenset({e.EINVAL})),
    "pidfd_open": ((0, 0), frozenset({e.EINVAL})),
}


def _asked(name: str) -> int:
    """The errno with which something other than the kernel refuses the call *name*; 0 where the kernel answers."""
    arguments, own = _QUESTIONS[name]
    answer = _in_child(lambda: {"": -_raw.syscall(name, *arguments)})
    found = answer.get("", answer.get("died", 0))
    return 0 if found in own else found


def _in_child(work: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Run *work* in a forked child and hand back its answers; {"died": -signal} where it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"died": -os.WTERMSIG(status)}
    answers: dict[str, int] = json.loads(text) if text else {"died": -signal.SIGABRT}
    return answers


def _user_namespace() -> dict[str, int]:
    """In a child: enter a new user namespace with our own ids, then try each namespace and mount in it."""
    uid, gid = os.geteuid(), os.getegid()
    answers = {"userns": -_raw.syscall("unshare", _NEWUSER)}
    if answers["userns"]:
        return answers
    answers["id_map"] = _written(
        ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")
    )
    if answers["id_map"]:
        return answers
    for name, flag in _KINDS.items():
        answers[name] = _in_child(partial(_unshared, flag)).get("", e.EPERM)
    answers.update(_in_child(_names))
    if not answers["mount"]:
        answers.update(_in_child(_mounts))
    return answers


def _names() -> dict[str, int]:
    """In a child of that: calls that take privilege before they look at their arguments, which are wrong."""
    if -_raw.syscall("unshare", _NEWUTS | _NEWNS):
        return {}
    asked: dict[str, tuple[int | bytes, int]] = {
        "sethostname": (0, -1),
        "setdomainname": (0, -1),
        "pivot_root": (0, 0),
        "umount2": (b"/nonexistent/x", 0),
    }
    own = {e.EINVAL, e.EFAULT, e.ENOENT, e.ENOTDIR}
    answers = {"call " + name: -_raw.syscall(name, *arguments) for name, arguments in asked.items()}
    return {name: 0 if answer in own else answer for name, answer in answers.items()}


def _unshared(flag: int) -> dict[str, int]:
    return {"": -_raw.syscall("unshare", flag)}


def _written(*files: tuple[str, str]) -> int:
    for name, content in files:
        try:
            with open("/proc/self/" + name, "w") as file:
                file.write(content)
        except OSError as error:
            return error.errno or e.EIO
    return 0


def _mounts() -> dict[str, int]:
    """In a child of that: a mount and a pid namespace, and in them every file system that a container has."""
    if refused := -_raw.syscall("unshare", _NEWNS | _NEWPID | _NEWNET | _NEWIPC):
        return {"mount all": refused}
    answers = {"mount private": -_raw.syscall("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, 0)}
    answers["mount tmpfs"] = -_raw.syscall("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
    answers["mount fsopen"] = max(-_raw.syscall("fsopen", b"tmpfs", 1), 0)  # a descriptor, or -errno
    if not answers["mount tmpfs"]:
        # proc and sysfs belong to the namespaces of a process born in them, so one more child mounts them
        answers.update(_in_child(_mounts_inside))
    return answers


def _mounts_inside() -> dict[str, int]:
    answers = {}
    for kind in ("proc", "sysfs", "mqueue", "devpts"):
        os.mkdir("/tmp/" + kind)
        data = b"newinstance" if kind == "devpts" else None
        flags = _MS_RDONLY if kind == "sysfs" else 0
        target = f"/tmp/{kind}".encode()
        answers["mount " + kind] = -_raw.syscall("mount", b"none", target, kind.encode(), flags, data)
    for folder in ("lower", "upper", "work", "merged"):
        os.mkdir("/tmp/" + folder)
    layers = b"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr"
    answers["mount overlay"] = -_raw.syscall("mount", b"none", b"/tmp/merged", b"overlay", 0, layers)
    return answers

"""Mounts as docker run and bwrap write them, to the values that a Spec takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

__all__ = ["MAKERS"]

_FLAGS = {
    "ro": ("readonly", True),
    "readonly": ("readonly", True),
    "rw": ("readonly", False),
    "suid": ("nosuid", False),
    "nosuid": ("nosuid", True),
    "dev": ("nodev", False),
    "nodev": ("nodev", True),
    "exec": ("noexec", False),
    "noexec": ("noexec", True),
    "optional": ("optional", True),
    "idmap": ("idmap", True),
}


def _bad(option: str, text: str, wish: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is not {wish}", param_hint=f"'{option}'")


def _flags(text: str, option: str, allowed: frozenset[str] = frozenset(_FLAGS)) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        if word not in allowed:
            raise _bad(option, word, "one of " + ", ".join(sorted(allowed)))
        name, value = _FLAGS[word]
        found[name] = value
    return found


def _volume(text: str) -> Any:
    from creche import Bind

    source, found, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not found or not source or not target:
        raise _bad("--volume", text, "SOURCE:TARGET[:OPTIONS] (for an empty directory: --tmpfs TARGET)")
    return Bind(os.path.abspath(source), target, **_flags(options, "--volume"))


def _bind(pair: tuple[str, str], **fields: Any) -> Any:
    from creche import Bind

    return Bind(os.path.abspath(pair[0]), pair[1], **fields)


def _tmpfs(text: str) -> Any:
    from creche import Tmpfs

    target, _, options = text.partition(":")
    return Tmpfs(target, **_tmpfs_options(options.split(","), "--tmpfs"))


def _tmpfs_options(words: list[str], option: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    plain = frozenset(_FLAGS) - {"optional", "idmap"}
    for word in filter(None, words):
        name, found, value = word.partition("=")
        if found and name in ("size", "tmpfs-size"):
            fields["size"] = int(value) if value.isdecimal() else value
        elif found and name in ("nr_inodes", "inodes") and value.isdecimal():
            fields["inodes"] = int(value)
        elif found and name in ("mode", "tmpfs-mode"):
            fields["mode"] = _octal(value, option)
        else:
            fields |= _flags(word, option, plain)
    return fields


def _octal(text: str, option: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise _bad(option, text, "an octal number such as 1777") from None


_TARGETS = ("target", "dst", "destination")
_SOURCES = ("source", "src")


def _mount(text: str) -> Any:
    """docker run's --mount: key=value pairs with commas; type= is bind, tmpfs, overlay, proc, sysfs, devpts, mqueue."""
    words = text.split(",")
    values = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    kind = values.pop("type", "bind")
    target = next((values.pop(name) for name in _TARGETS if name in values), None)
    source = next((values.pop(name) for name in _SOURCES if name in values), None)
    for name in ("readonly", "ro"):
        switch = values.pop(name, None)
        if switch in ("true", "1"):
            plain.append("readonly")
        elif switch not in (None, "false", "0"):
            raise _bad("--mount", text, f"a mount: {name} is true or false")
    if target is None or (kind == "bind" and source is None):
        raise _bad("--mount", text, "type=TYPE,source=SOURCE,target=TARGET[,readonly]")
    made = _of_kind(kind, source or "", target, plain, values)
    if made is None:
        raise _bad("--mount", text, "a mount: type is bind, tmpfs, overlay, proc, sysfs, devpts or mqueue")
    if values:
        raise _bad("--mount", ", ".join(values), f"known to type={kind}")
    return made


def _of_kind(kind: str, source: str, target: str, plain: list[str], values: dict[str, str]) -> Any:
    """The mount, with the values that it took removed from *values*; None for an unknown kind."""
    import creche

    flags = ",".join(plain)
    if kind == "bind":
        return creche.Bind(os.path.abspath(source), target, **_flags(flags, "--mount"))
    if kind == "tmpfs":
        options = [f"{name}={values.pop(name)}" for name in list(values)]
        return creche.Tmpfs(target, **_tmpfs_options([*plain, *options], "--mount"))
    if kind == "overlay":
        lower = [os.path.abspath(part) for part in values.pop("lowerdir", "").split(":") if part]
        upper, work = (values.pop(name, None) for name in ("upperdir", "workdir"))
        upper, work = (os.path.abspath(path) if path else None for path in (upper, work))
        fields = _flags(flags, "--mount", frozenset({"ro", "readonly", "rw"}))
        return creche.Overlay(lower=lower, upper=upper, work=work, target=target, **fields)
    simple: dict[str, Any] = {
        "proc": creche.Proc,
        "sysfs": creche.Sysfs,
        "devpts": creche.DevPts,
        "mqueue": creche.Mqueue,
    }
    if kind not in simple:
        return None
    if flags:
        raise _bad("--mount", flags, f"known to type={kind}")
    if kind == "proc":
        taken = {name: values.pop(name) for name in ("hidepid", "subset") if name in values}
        return creche.Proc(target, **taken)
    return simple[kind](target)


def _symlink(pair: tuple[str, str]) -> Any:
    from creche import Symlink

    return Symlink(*pair)


def _proc(target: str) -> Any:
    from creche import Proc

    return Proc(target)


def _mqueue(target: str) -> Any:
    from creche import Mqueue

    return Mqueue(target)


#: From a parameter's name to the function that makes a mount of one of its values.
MAKERS: dict[str, Callable[[Any], Any]] = {
    "volume": _volume,
    "mount": _mount,
    "tmpfs": _tmpfs,
    "bind": _bind,
    "ro_bind": lambda pair: _bind(pair, readonly=True),
    "bind_try": lambda pair: _bind(pair, optional=True),
    "ro_bind_try": lambda pair: _bind(pair, readonly=True, optional=True),
    "symlink": _symlink,
    "proc": _proc,
    "mqueue": _mqueue,
}

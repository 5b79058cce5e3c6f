"""The shape of a seccomp profile as OCI runtimes and Docker write it: known keys, known words, no two meanings.

What the system calls' names and the rules *do* is for the filter's compiler; here nothing slips through that would be
read as something wider than it says (an unknown key, a rule that is passed over, the same call decided twice).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import SpecError
from .checks import Check, Choice, Each, Schema, Text, Whole, Word, below, nearest

__all__ = ["PROFILE_SCHEMA", "checked_profile"]

_LARGEST = 1 << 20  # bytes as JSON; Docker's own profile has 13 thousand
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
_ACTION = Choice(
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
)
_ERRNO = Whole(0, 4095, "an errno")
_CALL = Word(r"[A-Za-z0-9_]{1,64}", "give the name of a system call")
_CALLS = Each(_CALL, "system calls", least=1)
_U64 = Whole(0, 2**64 - 1)
_WORDS = Each(Word(r"[A-Za-z0-9_.-]{1,64}", "give a word such as SCMP_ARCH_X86_64"), "words")
PROFILE_SCHEMA: Schema = {
    "type": "object",
    "required": ["defaultAction"],
    "properties": {"defaultAction": _ACTION.schema(), "syscalls": {"type": "array"}},
    "description": "a seccomp profile as in the OCI runtime specification, or as Docker writes it",
}


class _Record(Check):
    """A mapping with these keys and no others."""

    def __init__(self, required: dict[str, Check], optional: dict[str, Check], what: str) -> None:
        self.required, self.keys = required, required | optional
        self.wish = f"give {what}"

    def __call__(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(value, path)
        for key, item in value.items():
            if key not in self.keys:
                raise self.refuse(
                    item, below(path, key), f"a profile has no such key{nearest(key, self.keys)}"
                )
        for key in self.required:
            if value.get(key) is None:
                raise self.refuse(None, f"{path}.{key}", "it is required")
        return {key: self.keys[key](item, f"{path}.{key}") for key, item in value.items() if item is not None}


_ARGUMENT = _Record(
    {
        "index": Whole(0, 5, "an argument's index"),
        "value": _U64,
        "op": Choice(*(f"SCMP_CMP_{op}" for op in _OPERATORS)),
    },
    {"valueTwo": _U64},
    "a comparison with index, value and op",
)
_CONDITION = _Record(
    {},
    {"caps": _WORDS, "arches": _WORDS, "minKernel": Word(r"[0-9]+\.[0-9]+", 'give a version such as "4.8"')},
    "conditions: caps, arches or minKernel",
)
_RULE = _Record(
    {"action": _ACTION},
    {
        "names": _CALLS,
        "name": _CALL,
        "errnoRet": _ERRNO,
        "errno": Word(r"E[A-Z0-9]+", "give an errno's name"),
        "args": Each(_ARGUMENT, "comparisons", most=16),
        "comment": Text("give text", 4096),
        "includes": _CONDITION,
        "excludes": _CONDITION,
    },
    "a rule with names and an action",
)
_ARCHITECTURES = _Record(
    {"architecture": Word(r"SCMP_ARCH_[A-Z0-9_]+", "give a word such as SCMP_ARCH_X86_64")},
    {"subArchitectures": _WORDS},  # Docker's own profile says null for those that have none
    "an architecture and its subArchitectures",
)
_PROFILE = _Record(
    {"defaultAction": _ACTION},
    {
        "defaultErrnoRet": _ERRNO,
        "defaultErrno": Word(r"E[A-Z0-9]+", "give an errno's name"),
        "architectures": _WORDS,
        "archMap": Each(_ARCHITECTURES, "architectures"),
        "flags": _WORDS,
        "syscalls": Each(_RULE, "rules", most=10_000),
    },
    "a seccomp profile: an object with a defaultAction and syscalls",
)


def checked_profile(value: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A copy of the profile with lists where JSON has lists; a SpecError names what is wrong, by its place."""
    for key in ("listenerPath", "listenerMetadata"):
        if value.get(key):
            wish = "calls are handed to Container.syscalls, not to a socket: leave it out"
            raise SpecError(f"{path}.{key}", value[key], wish)
    profile = _PROFILE({key: item for key, item in value.items() if key not in ("listenerPath", "listenerMetadata")}, path)
    decided: dict[str, tuple[str, Any]] = {}
    for index, rule in enumerate(profile.get("syscalls", ())):
        place = f"{path}.syscalls[{index}]"
        if ("name" in rule) is ("names" in rule):
            raise SpecError(f"{place}.names", rule.get("names"), "give the system calls of the rule, once")
        if rule["action"] != "SCMP_ACT_ERRNO" and "errnoRet" in rule:
            raise SpecError(
                f"{place}.errnoRet", rule["errnoRet"], f"{rule['action']} answers with no errno; leave it out"
            )
        if rule.get("args") or rule.get("includes") or rule.get("excludes"):
            continue
        for name in rule.get("names") or (rule["name"],):
            answer = (rule["action"], rule.get("errnoRet"))
            if decided.setdefault(name, answer) != answer:
                raise SpecError(
                    f"{place}.names", name, "another rule without conditions decides it otherwise"
                )
    copied: dict[str, Any] = json.loads(json.dumps(profile))  # tuples become the lists that JSON has
    if len(json.dumps(copied)) > _LARGEST:
        raise SpecError(path, "a very large profile", f"{_LARGEST >> 20} MiB as JSON are the most")
    return copied

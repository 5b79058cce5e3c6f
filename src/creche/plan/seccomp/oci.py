"""Profiles in the JSON of the OCI runtime specification and of Docker, read as a Policy.

spec/profile.py has looked at the shape already. Here the words get their meaning, and what has none here is an error
that names its place: never a rule passed over that somebody relied on.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from ...errors import SpecError
from ...spec.checks import nearest
from ...spec.profile import checked_profile
from .arguments import is_int
from .numbers import ARCHES, elsewhere, numbers
from .rules import ALLOW, EPERM, INT, NOSYS, WORD, Action, Compare, Kind, Op, Policy, Rule

__all__ = ["read_profile"]

ACTIONS = {
    "SCMP_ACT_KILL": Kind.KILL_THREAD,  # libseccomp's old name for it
    "SCMP_ACT_KILL_THREAD": Kind.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": Kind.KILL_PROCESS,
    "SCMP_ACT_TRAP": Kind.TRAP,
    "SCMP_ACT_ERRNO": Kind.ERRNO,
    "SCMP_ACT_NOTIFY": Kind.NOTIFY,
    "SCMP_ACT_LOG": Kind.LOG,
    "SCMP_ACT_ALLOW": Kind.ALLOW,
}

OPS = {"EQ": Op.EQ, "NE": Op.NE, "LT": Op.LT, "LE": Op.LE, "GT": Op.GT, "GE": Op.GE}

# Names of processors: SCMP_ARCH_* of libseccomp, and Go's, which Docker's includes and excludes speak.
WORDS = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64", "x86_64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64", "aarch64"),
}

# SECCOMP_FILTER_FLAG_*. TSYNC is about other threads: whoever installs our filter has none.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0,  # compile_filter sets it itself where there is a listener
}


def read_profile(
    profile: Mapping[str, Any],
    *,
    arch: str,
    capabilities: frozenset[str] = frozenset(),
    kernel: tuple[int, int] = (5, 14),
    path: str = "security.seccomp",
) -> Policy:
    """The policy of a profile for one processor, for a container with these capabilities on this kernel.

    Raises:
        SpecError: what the profile says has no meaning, or none that runtimes agree on; it names the place.
    """
    profile = checked_profile(profile, path)
    numbers(arch)  # raises for a processor without a table
    _check_architectures(profile, arch, path)
    otherwise = _action(profile, profile["defaultAction"], "defaultErrnoRet", "defaultErrno", path)
    rules = []
    for at, entry in enumerate(profile.get("syscalls", ())):
        rule = _rule(entry, f"{path}.syscalls[{at}]")
        if _applies(entry, arch, capabilities, kernel):
            rules.append(rule)
    flags = 0
    for at, word in enumerate(profile.get("flags", ())):
        if word not in FLAGS:
            raise SpecError(f"{path}.flags[{at}]", word, f"flags are {', '.join(FLAGS)}")
        flags |= FLAGS[word]
    return _completed(tuple(rules), otherwise, arch)._replace(flags=flags)


def _completed(rules: tuple[Rule, ...], otherwise: Action, arch: str) -> Policy:
    """What a profile does not say, because calls came later than it: those are refused, as calls that do not exist.

    A default of ALLOW or LOG means what it says for them too.
    """
    table = numbers(arch)
    named = {table[name] for rule in rules for name in rule.names if name in table}
    if otherwise.kind in (Kind.ALLOW, Kind.LOG):
        return Policy(rules, otherwise, newer=otherwise)
    if otherwise.kind is not Kind.ERRNO:
        return Policy(rules, otherwise)
    if table["clone3"] not in named:
        rules += (Rule(("clone3",), NOSYS),)  # any other errno, and the C libraries do not turn to clone
    return Policy(rules, otherwise, newest=max(named, default=None))


def _check_architectures(profile: Mapping[str, Any], arch: str, path: str) -> None:
    """A profile for other processors says nothing about this one. Docker's archMap is a list of what may come."""
    given = profile.get("architectures")
    if given and WORDS[arch][0] not in given:
        wish = f"this machine is {WORDS[arch][0]}: add it, or leave the list out"
        raise SpecError(f"{path}.architectures", given, wish)


def _action(entry: Mapping[str, Any], word: str, number: str, name: str, path: str) -> Action:
    """An action with its errno, which is given by number, by name (Podman), or not at all (EPERM)."""
    kind = ACTIONS.get(word)
    if kind is None:
        raise SpecError(f"{path}.action", word, f"known actions are {', '.join(ACTIONS)}")
    given = entry.get(number)
    named = entry.get(name)
    if named is not None:
        value = getattr(errno, named, None)
        if not isinstance(value, int):
            raise SpecError(f"{path}.{name}", named, "there is no errno of this name")
        if given is not None and given != value:
            raise SpecError(f"{path}.{name}", named, f"{number} is {given}, and {named} is {value}")
        given = value
    if kind is Kind.ERRNO:
        return EPERM if given is None else Action(kind, given)
    return ALLOW if kind is Kind.ALLOW else Action(kind)


def _rule(entry: Mapping[str, Any], path: str) -> Rule:
    names = tuple(entry["names"]) if "names" in entry else (entry["name"],)
    for at, name in enumerate(names):
        if name not in elsewhere() and not any(name in numbers(arch) for arch in ARCHES):
            place = f"{path}.names[{at}]" if "names" in entry else f"{path}.name"
            wish = f"no processor has a call of this name{nearest(name, numbers(ARCHES[0]))}"
            raise SpecError(place, name, wish)
    seen: set[int] = set()
    when = []
    for at, given in enumerate(entry.get("args", ())):
        place = f"{path}.args[{at}]"
        if given["index"] in seen:
            # runc reads it as or, the specification as and, libseccomp refuses it.
            wish = "this argument is compared twice in one rule, which runtimes read differently; write two rules"
            raise SpecError(f"{place}.index", given["index"], wish)
        seen.add(given["index"])
        when.append(_compare(given, names, place))
    return Rule(names, _action(entry, entry["action"], "errnoRet", "errno", path), tuple(when))


def _compare(given: Mapping[str, Any], names: tuple[str, ...], path: str) -> Compare:
    index, value, second = given["index"], given["value"], given.get("valueTwo", 0)
    word = given["op"].removeprefix("SCMP_CMP_")
    mask = WORD
    if word == "MASKED_EQ":
        mask, value = value, second
        if value & ~mask:
            wish = (
                f"value is the mask, {mask:#x}, and valueTwo what is left of the argument: it has other bits"
            )
            raise SpecError(f"{path}.valueTwo", value, wish)
    elif second:
        raise SpecError(f"{path}.valueTwo", second, "it goes with SCMP_CMP_MASKED_EQ alone; leave it out")
    # An int is compared as its lower half: a value that is neither of 32 bits nor negative could not be met.
    for name in names:
        if is_int(name, index) and INT < value < WORD - INT // 2:
            raise SpecError(f"{path}.value", value, f"argument {index} of {name} has 32 bits")
    return Compare(index, Op.EQ if word == "MASKED_EQ" else OPS[word], value, mask)


def _applies(
    entry: Mapping[str, Any], arch: str, capabilities: frozenset[str], kernel: tuple[int, int]
) -> bool:
    """As in Docker: all of the includes have to hold, and none of the excludes."""
    includes, excludes = entry.get("includes", {}), entry.get("excludes", {})
    if not set(includes.get("caps", ())) <= capabilities:
        return False
    if includes.get("arches") and not set(includes["arches"]) & set(WORDS[arch]):
        return False
    if "minKernel" in includes and kernel < _version(includes["minKernel"]):
        return False
    return not (
        set(excludes.get("caps", ())) & capabilities
        or set(excludes.get("arches", ())) & set(WORDS[arch])
        or ("minKernel" in excludes and kernel >= _version(excludes["minKernel"]))
    )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)

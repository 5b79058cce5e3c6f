"""Docker's and the OCI's JSON: read as they mean it where all agree, refused with its place where they don't."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native.harness import FUZZING, explored

from creche.errors import SpecError
from creche.plan.seccomp import Filter, compile_filter, oci, verdict
from creche.plan.seccomp.numbers import numbers
from creche.plan.seccomp.rules import ALLOW, EPERM, NOSYS, Action, Kind, refuse
from creche.spec import Security
from needs import needs

# A profile of our own in the manner of Docker's: conditions, an archMap, names of other processors.
DOCKER: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
    ],
    "syscalls": [
        {
            "names": ["read", "write", "exit_group", "futex", "socketcall", "_llseek", "statx"],
            "action": "SCMP_ACT_ALLOW",
        },
        {
            "names": ["ptrace"],
            "action": "SCMP_ACT_ALLOW",
            "includes": {"minKernel": "4.8"},
            "args": None,
            "comment": "",
        },
        {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
        {"names": ["mount", "bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]},
        },
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 38,
            "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}],
        },
        {
            "name": "personality",
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}],
        },
    ],
}


def made(profile: Any, arch: str = "x86_64", kernel: tuple[int, int] = (6, 1), *capabilities: str) -> Filter:
    found = compile_filter(profile, arch=arch, capabilities=frozenset(capabilities), kernel=kernel)
    assert found is not None
    return found


def with_rule(rule: dict[str, Any], default: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": [rule]}


def test_a_profile_in_docker_s_manner() -> None:
    """Includes hold all together, any exclude is enough, and names of other processors are passed over."""
    filter = made(DOCKER)
    assert verdict(filter, "read") == verdict(filter, "ptrace") == verdict(filter, "arch_prctl") == ALLOW
    assert verdict(filter, "mount") == verdict(filter, "open") == EPERM and verdict(filter, "mseal") == NOSYS
    assert verdict(filter, "clone", (0x11,)) == ALLOW and verdict(filter, "clone", (1 << 28,)) == EPERM
    assert verdict(filter, "clone3") == NOSYS
    assert (
        verdict(filter, "personality", (0xFFFFFFFF,)) == verdict(filter, "personality", (1 << 40,)) == ALLOW
    )
    assert verdict(filter, "personality", (8,)) == EPERM
    admin = made(DOCKER, "x86_64", (6, 10), "CAP_SYS_ADMIN")
    assert verdict(admin, "mount") == verdict(admin, "mseal") == ALLOW
    assert verdict(admin, "clone", (0,)) == EPERM  # excluded, and this profile opens it nowhere else
    assert verdict(made(DOCKER, "aarch64"), "dup") == EPERM
    assert verdict(filter, "read", arch="i386") == Action(Kind.KILL_PROCESS)  # subArchitectures open nothing


def test_calls_that_came_after_the_profile_do_not_exist() -> None:
    """An errno default speaks for numbers up to the last one named; clone3 always says ENOSYS unless it is named."""
    old = with_rule({"names": ["read", "clone", "statx"], "action": "SCMP_ACT_ALLOW"})
    filter = made(old)
    assert verdict(filter, "open") == verdict(filter, "bpf") == EPERM
    for name in ("clone3", "openat2", "faccessat2", "io_uring_setup", "mseal"):
        assert verdict(filter, name) == NOSYS
    new = with_rule({"names": ["read", "clone", "mseal"], "action": "SCMP_ACT_ALLOW"})
    assert verdict(made(new), "openat2") == EPERM and verdict(made(new), "clone3") == NOSYS
    kill = with_rule({"names": ["read"], "action": "SCMP_ACT_ALLOW"}, "SCMP_ACT_KILL_PROCESS")
    assert verdict(made(kill), "clone3") == verdict(made(kill), "mseal") == Action(Kind.KILL_PROCESS)
    assert verdict(made(kill), 600) == NOSYS
    allow = with_rule({"names": ["bpf"], "action": "SCMP_ACT_ERRNO"}, "SCMP_ACT_ALLOW")
    assert verdict(made(allow), 600) == verdict(made(allow), "clone3") == ALLOW
    assert verdict(made(allow), (1 << 30) + 321) == NOSYS  # x32's bpf


def test_the_more_severe_of_two_rules_holds() -> None:
    """An order of rules that opens what another one shut does not exist."""
    shut = {
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 97,
        "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}],
    }
    opened = {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}
    for rules in ([shut, opened], [opened, shut]):
        for default in ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL"):
            filter = made({"defaultAction": default, "syscalls": rules})
            assert (
                verdict(filter, "socket", (40,)) == verdict(filter, "socket", (40 | 1 << 40,)) == refuse(97)
            )
            assert verdict(filter, "socket", (2,)) == ALLOW


def test_comparisons() -> None:
    """Each operator, in 64 bits where the argument has them and in 32 where it is an int."""
    for word, yes, no in [("EQ", 5, 6), ("NE", 6, 5), ("LT", 4, 5), ("LE", 5, 6), ("GT", 6, 5), ("GE", 5, 4)]:
        rule = {
            "names": ["mmap", "ioctl"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 1, "value": 5, "op": f"SCMP_CMP_{word}"}],
        }
        filter = made(with_rule(rule))
        for name in ("mmap", "ioctl"):
            assert verdict(filter, name, (0, yes)) == ALLOW and verdict(filter, name, (0, no)) == EPERM
        assert verdict(filter, "ioctl", (0, yes | 1 << 40)) == ALLOW  # the kernel will see no more than yes
        wide = word in ("NE", "GT", "GE")
        assert verdict(filter, "mmap", (0, yes | 1 << 40)) == (ALLOW if wide else EPERM)
    negative = with_rule(
        {
            "names": ["fchdir"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2**64 - 100, "op": "SCMP_CMP_EQ"}],
        }
    )
    assert verdict(made(negative), "fchdir", (2**32 - 100,)) == ALLOW


def test_podman_s_words() -> None:
    """Errnos by name, beside the number or without it."""
    rule = {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errno": "EACCES"}
    filter = made(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrno": "ENOSYS",
            "defaultErrnoRet": 38,
            "syscalls": [rule],
        }
    )
    assert verdict(filter, "bpf") == refuse(13) and verdict(filter, "read") == NOSYS


def test_flags() -> None:
    """Those of seccomp(2); TSYNC is about threads that are not there."""
    base = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    }
    assert made(base).flags == 6
    assert made({**base, "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]}).flags == 0


def test_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that hands calls over needs a listener, also where that is its default."""
    monkeypatch.setattr(oci, "checked_profile", lambda profile, path: profile)
    filter = made(with_rule({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_ALLOW"))
    assert filter.needs_listener and filter.listener_flags & 8
    assert verdict(filter, "mount") == filter.answer(numbers("x86_64")["mount"]) == Action(Kind.NOTIFY)
    assert verdict(made({"defaultAction": "SCMP_ACT_NOTIFY"}), "read") == Action(Kind.NOTIFY)
    with pytest.raises(SpecError, match="known actions"):
        made({"defaultAction": "SCMP_ACT_TRACE"})


def at(profile: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The profile with one place changed: ``syscalls.0.action``."""
    changed: Any = copy.deepcopy(profile)
    *way, last = path.split(".")
    inner = changed
    for step in way:
        inner = inner[int(step)] if step.isdigit() else inner[step]
    inner[int(last) if last.isdigit() else last] = value
    return dict(changed)


@pytest.mark.parametrize(
    ("place", "value", "field", "words"),
    [
        ("syscalls.0.names.2", "exit_gruop", "syscalls[0].names[2]", "'exit_group'"),
        ("syscalls.9.name", "personalty", "syscalls[9].name", "'personality'"),
        ("syscalls.0.action", "SCMP_ACT_MAYBE", "syscalls[0].action", ""),
        ("syscalls.0.actoin", "SCMP_ACT_ALLOW", "syscalls[0].actoin", "actoin"),
        ("defaultAction", "ALLOW", "defaultAction", ""),
        ("defaultErrno", "ENOPE", "defaultErrno", "no errno of this name"),
        ("defaultErrno", "EACCES", "defaultErrno", "defaultErrnoRet is 1"),
        ("architectures", ["SCMP_ARCH_S390X"], "architectures", "SCMP_ARCH_X86_64"),
        ("flags", ["SECCOMP_FILTER_FLAG_FAST"], "flags[0]", "SECCOMP_FILTER_FLAG_LOG"),
        ("syscalls.6.args.0.index", 6, "syscalls[6].args[0].index", ""),
        ("syscalls.6.args.0.index", True, "syscalls[6].args[0].index", ""),
        ("syscalls.6.args.0.value", -1, "syscalls[6].args[0].value", ""),
        ("syscalls.6.args.0.value", 2**64, "syscalls[6].args[0].value", ""),
        ("syscalls.6.args.0.valueTwo", 1, "syscalls[6].args[0].valueTwo", "value is the mask"),
        ("syscalls.6.args.0.op", "SCMP_CMP_ALMOST", "syscalls[6].args[0].op", ""),
        ("syscalls.8.args.0.valueTwo", 3, "syscalls[8].args[0].valueTwo", "MASKED_EQ alone"),
        ("syscalls.8.args.0.value", 1 << 33, "syscalls[8].args[0].value", "has 32 bits"),
        ("syscalls.7.errnoRet", 5000, "syscalls[7].errnoRet", ""),
        ("syscalls.2.includes.minKernel", "new", "syscalls[2].includes.minKernel", ""),
        ("listenerPath", "/run/x", "listenerPath", "listenerPath"),
    ],
)
def test_nonsense_is_refused_by_its_place(place: str, value: Any, field: str, words: str) -> None:
    """The field of the error is the JSON's path; the sentence says what would do."""
    with pytest.raises(SpecError) as caught:
        made(at(DOCKER, place, value))
    assert caught.value.field == f"security.seccomp.{field}".rstrip(".")
    assert words in str(caught.value)


def test_an_argument_compared_twice_is_refused() -> None:
    """runc reads it as or, the specification as and: a profile may not mean both."""
    args = [{"index": 0, "value": 3, "op": "SCMP_CMP_GE"}, {"index": 0, "value": 5, "op": "SCMP_CMP_LE"}]
    with pytest.raises(SpecError, match="write two rules") as caught:
        made(with_rule({"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": args}))
    assert caught.value.field == "security.seccomp.syscalls[0].args[1].index"


def test_a_giant_is_refused() -> None:
    """More comparisons than the kernel takes instructions."""
    rules = [
        {
            "names": ["mmap"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": n % 2, "value": 3 * n, "op": "SCMP_CMP_EQ"}],
        }
        for n in range(3000)
    ]
    with pytest.raises(SpecError, match="at most 4096"):
        made({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([*DOCKER, "EQ", "SCMP_ACT_ALLOW", "read", "\0"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*DOCKER, "names", "args", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_places(DOCKER)[1:]), _JUNK)
def test_a_profile_with_junk_in_it(place: tuple[Any, ...], junk: Any) -> None:
    """F18: it is a filter or a SpecError, and a filter of these rules never opens what no rule of them names."""
    changed = copy.deepcopy(DOCKER)
    inner: Any = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = junk
    try:
        filter = made(changed)
    except SpecError as error:
        assert error.field.startswith("security.seccomp")
        return
    opens_only_what_it_names(filter, changed)


def opens_only_what_it_names(filter: Filter, profile: dict[str, Any]) -> None:
    if profile["defaultAction"] not in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG"):
        named = json.dumps(profile)
        for name in ("keyctl", "reboot", "init_module", "unshare"):
            assert f'"{name}"' in named or verdict(filter, name) != ALLOW


#: What is put in: pieces of profiles, of JSON, and of neither.
_PIECES = [
    *(json.dumps(word) for word in ("names", "args", "SCMP_ACT_ALLOW", "SCMP_CMP_MASKED_EQ", "keyctl", "unshare", "x" * 300, "\0", "\ud800")),
    "{", "}", "[", "]", ",", ":", "null", "true", "-1", "1e999", "NaN", "18446744073709551616", "0x1", "[]", "{}", '{"names":["unshare"],"action":"SCMP_ACT_ALLOW"},', "[" * 2000,
]  # fmt: skip


def _fuzzed(text: str, dice: random.Random) -> str:
    words = [match.span() for match in re.finditer(r'"[^"]*"|\d+|null', text)]
    if dice.random() < 0.7:  # one word for another, which leaves it JSON
        (start, end), (first, last) = dice.choice(words), dice.choice(words)
        return text[:start] + dice.choice([text[first:last], *_PIECES]) + text[end:]
    for _ in range(dice.randint(1, 6)):
        start, end = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        end = min(end, start + dice.choice([0, 1, 2, 20, 200]))
        there = dice.randrange(len(text) + 1)
        change = dice.choice([dice.choice(_PIECES), "", chr(dice.randrange(256)), text[there : there + dice.choice([1, 30, 300])]])
        text = text[:start] + change + text[end:]
    return text


@pytest.mark.parametrize("count", [500, *(pytest.param(count, marks=pytest.mark.long) for count in (30_001, 30_002, 30_003, 30_004))])
def test_a_profile_whose_text_is_changed(count: int) -> None:
    """F18 again, from bytes: what JSON makes of them is a filter that opens nothing else, or a SpecError."""
    dice, made_of, filters = random.Random(count), json.dumps(DOCKER), 0
    for _ in range(count):
        text = _fuzzed(made_of, dice)
        try:
            profile = json.loads(text)
        except (ValueError, RecursionError):
            continue
        try:
            security = Security(seccomp=profile)
            if isinstance(security.seccomp, dict):
                filter = made(security.seccomp)
                opens_only_what_it_names(filter, security.seccomp)
                filters += 1
        except SpecError as error:
            assert error.field.startswith("security.seccomp"), text
    assert filters > 5, "the texts are too wrong to test anything"


def guided(folder: Path, seconds: int, *options: str) -> subprocess.CompletedProcess[str]:
    """What libFuzzer finds in so many seconds, begun with the profile above and with each of its rules."""
    seeds, words = folder / "seeds", folder / "words"
    seeds.mkdir()
    for number, rules in enumerate([DOCKER["syscalls"], *([rule] for rule in DOCKER["syscalls"])]):
        (seeds / str(number)).write_text(json.dumps(DOCKER | {"syscalls": rules}))
    pieces = {*re.findall(r'"[A-Za-z_0-9]+"', json.dumps(DOCKER)), '"SCMP_ACT_LOG"', '"SCMP_ACT_NOTIFY"', '"SCMP_CMP_GT"', '"keyctl"', "null", "[]", "{}"}
    words.write_text("".join(json.dumps(piece) + "\n" for piece in sorted(pieces)))
    command = [sys.executable, Path(__file__).with_name("guided.py"), *options, f"-max_total_time={seconds}", *FUZZING, "-max_len=8192", f"-dict={words}"]
    return subprocess.run([*command, f"-artifact_prefix={folder}/", seeds], capture_output=True, text=True, check=False)


@needs("atheris")
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, pytest.param(300, marks=pytest.mark.long)])
def test_profiles_that_look_for_new_paths_find_no_fault(tmp_path: Path, seconds: int) -> None:
    done = guided(tmp_path, seconds)
    assert done.returncode == 0, done.stderr[-4000:]
    assert explored(done.stderr) > 1000


@needs("atheris")
@pytest.mark.slow
def test_a_fault_in_the_reader_would_be_found(tmp_path: Path) -> None:
    done = guided(tmp_path, 30, "--planted")
    assert done.returncode != 0
    assert "AssertionError" in done.stdout

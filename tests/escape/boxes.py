"""Runs tables of attacks: each table once a box, each attack a process of its own there, and every answer told."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from attrs import field, frozen

import creche
from creche import HostView, IdMap, Security, Spec
from creche.machine import CAPABILITIES, probe
from creche.plan.seccomp.numbers import numbers
from needs import needs

ROOT = os.geteuid() == 0
HERE = Path(__file__).parent
ONE = (IdMap(0, 0, 1),)
ALL = tuple(name for name in CAPABILITIES if name != "CAP_SYS_PTRACE")  # which opens the init, and is refused beside one

#: The boxes that attacks are tried in. Those named in HELD must hold; the others are for controls.
BOXES: dict[str, Mapping[str, Any]] = {
    "default": {},
    "no filter": {"security": Security(seccomp=None)},
    "capable": {"security": Security(seccomp=None, capabilities=ALL)},
    "capable, files of the kernel uncovered": {"security": Security(seccomp=None, capabilities=ALL, masked_paths=(), readonly_paths=())},
    "no filter, files of the kernel uncovered": {"security": Security(seccomp=None, masked_paths=(), readonly_paths=())},
    "files of the kernel uncovered": {"security": Security(masked_paths=(), readonly_paths=())},
    "may gain privileges": {"security": Security(seccomp=None, no_new_privs=False)},
    "no limit of core dumps": {"rlimits": {"core": (0, resource.getrlimit(resource.RLIMIT_CORE)[1])}},
    "no init": {"init": False},
    "no init, files of the kernel uncovered": {"init": False, "security": Security(masked_paths=(), readonly_paths=())},
    "no cgroup namespace": {"namespaces": creche.Namespaces(cgroup=False)},
    "host's network": {"namespaces": creche.Namespaces(network=False)},
}
#: Only root has these: the host's root inside, with no more capabilities than others; and no container worth the name.
ROOTS: dict[str, Mapping[str, Any]] = {
    "as the host's root": {"uid_map": ONE, "gid_map": ONE},
    "as the host's root, files of the kernel uncovered": {
        "uid_map": ONE, "gid_map": ONE, "security": Security(masked_paths=(), readonly_paths=()),
    },
    "no init, as the host's root, files of the kernel uncovered": {
        "uid_map": ONE, "gid_map": ONE, "init": False, "security": Security(masked_paths=(), readonly_paths=()),
    },
    "as the host's root, no filter": {"uid_map": ONE, "gid_map": ONE, "security": Security(seccomp=None)},
    "privileged": {
        "security": Security(privileged=True, seccomp=None, no_new_privs=False),
        "namespaces": creche.Namespaces(user=False, mount=True, pid=True, network=True, ipc=True, uts=True, cgroup=True),
    },
    "privileged, in the host's cgroup namespace": {
        "security": Security(privileged=True, seccomp=None, no_new_privs=False),
        "namespaces": creche.Namespaces(user=False, cgroup=False),
    },
}  # fmt: skip
HELD = (
    "default", "second command", "warm run", *(("warm run with an overlay",) if probe().tmpfs_user_xattr else ()), *(("as the host's root",) if ROOT else ()),
)  # fmt: skip
#: Whose forks have layers of the template's.
WARM = {"warm run": Spec(), "warm run with an overlay": Spec(mounts=[creche.Overlay(["/usr/share"], target="/srv")])}

Answer = tuple[str, str]


def source(table: str) -> str:
    """The program: what all begin with, and the table, as one text."""
    prelude = (HERE / "attacker.py").read_text()
    body = re.sub(r"(?m)^from (__future__|escape\.\w+) import .*$", "", (HERE / f"{table}.py").read_text())
    return f"{prelude}\n{body}\nmain()\n"


def arguments(table: str, names: Iterable[str], interpreter: str = "python3") -> list[str]:
    return [interpreter, "-I", "-S", "-c", source(table), json.dumps(dict(numbers(probe().arch))), json.dumps(list(names))]


def answers(stdout: bytes, told: str) -> dict[str, Answer]:
    lines = stdout.decode().splitlines()
    assert lines and lines[-1] == "the end", told
    return {name: (kind, what) for name, kind, what in map(json.loads, lines[:-1])}


@functools.cache
def tried(table: str, box: str, names: tuple[str, ...]) -> dict[str, Answer]:
    """What each of these attacks came to in a box of this kind; a table is run there once, whoever asks."""
    argv = arguments(table, names)

    return answered(argv, box, **{**BOXES, **ROOTS}.get(box, {}))


def answered(argv: list[str], way: str = "main command", timeout: float = 60, **fields: Any) -> dict[str, Answer]:
    """What attacks come to in a container of this Spec: by its second command, by a warm run, or else by its main one."""

    async def body() -> creche.Result:
        if way == "second command":
            async with creche.Container(Spec(rootfs=HostView(), **fields)) as place:
                return await place.run(argv, timeout=timeout)
        if way in WARM:
            async with creche.Pool(attrs.evolve(WARM[way], **fields), size=1, warm=creche.PythonWarm()) as pool:
                return await pool.run(["python3", *argv[3:]], timeout=timeout)  # -I and -S are for an interpreter that starts
        return await creche.run(argv, timeout=timeout, **fields)

    result = anyio.run(body)
    return answers(result.stdout, f"{result.exit.explain()}\n{result.stderr.decode(errors='replace')}")


def tried_strictly(table: str, names: Iterable[str], way: str = "main command", timeout: float = 60) -> dict[str, Answer]:
    """What they come to, one after another in one process, under the strict profile."""
    return answered([*arguments(table, names), "together"], way, timeout, security=Security(seccomp="strict"))


def tried_outside(table: str, name: str) -> Answer:
    """The same on the host, unconfined."""
    done = subprocess.run(arguments(table, [name], "/usr/bin/python3"), capture_output=True, check=False)
    return answers(done.stdout, done.stderr.decode())[name]


@frozen
class Row:
    """One attack: by which answers it counts as held, and the box in which it succeeds."""

    name: str
    held: frozenset[str] = field(converter=lambda text: frozenset(text.split()))
    control: str
    lacks: frozenset[str] = field(default="", converter=lambda text: frozenset(text.split()))  #: answers of a kernel built without it, of a root without the capability
    also: tuple[str, ...] = ()  #: boxes with less defence that hold it all the same

    def held_in(self, box: str, answer: Answer) -> None:
        kind, what = answer
        assert kind in ("refused", "held", "killed"), f"{self.name} in the box {box!r}: {kind}, {what}"
        assert what in self.held or (kind == "held" and "held" in self.held), f"{self.name} in the box {box!r} was {kind}: {what}"


def pair(table: str, rows: list[Row]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two tests: every row is held in every box that must hold, and each succeeds in its control."""
    entered = importlib.import_module(f"escape.{table}").ATTACKS
    known = {row.name for row in rows}
    assert known <= set(entered), f"no such attack: {known - set(entered)}"
    by_box: dict[str, list[str]] = {}
    for row in rows:
        for box in (*HELD, *row.also, row.control):
            by_box.setdefault(box, []).append(row.name)
    controls = [
        pytest.param(row, id=row.name, marks=[needs("root")] if row.control in ROOTS or row.control == "outside, as root" else []) for row in rows
    ]

    @pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])
    def test_is_held(row: Row) -> None:
        for box in (*HELD, *row.also):
            row.held_in(box, tried(table, box, tuple(by_box[box]))[row.name])

    @pytest.mark.parametrize("row", controls)
    def test_control(row: Row) -> None:
        if row.control.startswith("outside"):
            kind, what = tried_outside(table, row.name)
        else:
            kind, what = tried(table, row.control, tuple(by_box[row.control]))[row.name]
        if what in row.lacks:
            pytest.skip(f"this machine has not what {row.name} takes ({what}): it proves nothing here")
        assert kind == "achieved", f"the control of {row.name} in the box {row.control!r} came to nothing: {kind}, {what}"

    return test_is_held, test_control

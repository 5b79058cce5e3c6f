"""Wherever a proc lies in a container, what a uid of 0 could write there without a capability is read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from plan.examples import EXAMPLES, plan

import creche
from creche import Bind, Directory, IdMap, Namespaces, Proc, Security
from creche.plan import steps as st
from needs import needs

MAP = (IdMap(0, 0, 65536),)  # the host's root is the container's: a sysctl compares ids and asks for no capability
PATH = "sys/kernel/core_pattern"


def opened(*roots: str, **fields: Any) -> set[str]:
    """Below which of these PATH can be opened for writing (nothing is written)."""
    script = f'for root; do (: >>"$root/{PATH}") 2>/dev/null && echo "$root"; done; true'
    result = anyio.run(lambda: creche.run(["sh", "-c", script, "sh", *roots], uid_map=MAP, gid_map=MAP, **fields))
    assert result.exit.ok, f"{result.exit.explain()} {result.stderr!r}"
    return set(result.stdout.decode().split())


SHARED = Namespaces(pid=False)
PLACES: dict[str, dict[str, Any]] = {
    "its own": {},
    "the caller's": {"namespaces": SHARED},
    "the caller's, in no root of its own": {"namespaces": SHARED, "rootfs": None},
    "its own, in no root of its own": {"rootfs": None},
    "a second one": {"mounts": [Proc("/second")]},
    "a bind": {"mounts": [Bind("/proc", "/second")]},
    "a bind in its place": {"mounts": [Bind("/proc", "/proc")]},
}


@needs("root", "userns")
@pytest.mark.parametrize("name", PLACES)
def test_no_proc_is_open_to_the_hosts_root(name: str) -> None:
    assert opened("/proc", "/second", **PLACES[name]) == set()


@needs("root", "userns")
def test_control_it_is_open_where_that_is_asked_for() -> None:
    privileged = Security(privileged=True)
    assert opened("/proc", "/second", mounts=[Proc("/second")], security=privileged) == {"/proc", "/second"}


@needs("root", "userns")
def test_where_nothing_can_be_covered_the_hosts_root_is_refused() -> None:
    shared = Namespaces(pid=False, mount=False)
    with pytest.raises(creche.SpecError, match=r"uid_map.*/proc/sys"):
        opened("/proc", namespaces=shared, rootfs=None)
    assert opened("/proc", namespaces=shared, rootfs=None, security=Security(privileged=True)) == {"/proc"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_masks_of_a_proc_of_ours_are_found_by_its_descriptor(name: str) -> None:
    """Whoever shares a rootfs can move the folder away that the proc is mounted on; a path then leads past the masks."""
    spec, machine = EXAMPLES[name]
    if spec.namespaces.pid is not True:
        return
    for step in plan(spec, machine).setup:
        if isinstance(step, (st.Mask, st.ReadOnly)):
            slot = step.slot2 if isinstance(step, st.Mask) else step.slot
            assert slot == st.PROC or not step.text.startswith(b"/proc/"), step


@needs("userns")
@pytest.mark.parametrize("number", [3, 8])
def test_a_limit_of_descriptors_is_the_commands_and_not_its_starts(number: int) -> None:
    result = anyio.run(lambda: creche.run(["/bin/sh", "-c", "ulimit -n"], rlimits={"nofile": number}, cwd="/tmp"))
    # a loader opens libraries one after the other, which 3 descriptors do not allow
    assert result.stdout == (b"" if number == 3 else b"%d\n" % number)


@needs("root", "userns", "busybox")
def test_three_descriptors_are_enough_for_a_static_program(tmp_path: Path) -> None:
    from privileged.look import busybox_root

    root = Directory(str(busybox_root(tmp_path / "image")))
    result = anyio.run(lambda: creche.run(["/bin/sh", "-c", "ulimit -n"], rootfs=root, rlimits={"nofile": 3}))
    assert result.stdout == b"3\n", result.stderr

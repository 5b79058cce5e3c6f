"""What a limited container holds in its supervisor while it lives: no more than one without limits, but for version 1's alarm."""

from __future__ import annotations

import os

import anyio
import pytest
from loop.helpers import SLEEPER

from creche import Container, Limits, Spec
from needs import needs

pytestmark = needs("native", "userns", "limits")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def held(box: Container) -> int:
    """How many descriptors it takes while it runs, so many more while it is watched."""
    before = descriptors()
    async with box:
        return descriptors() - before


@pytest.mark.parametrize("lookup", [False, True], ids=["at once", "after a look at its users"])
async def test_no_descriptor_of_a_cgroup_is_kept(lookup: bool) -> None:
    """A thousand limited containers would else hold a thousand cgroup.procs in each hierarchy."""
    fields = {"user": "root:0"} if lookup else {}
    plain = await held(Container(Spec(SLEEPER, **fields)))
    limited = await held(Container(Spec(SLEEPER, limits=Limits(pids=50, memory="100M", cpus=1), **fields)))
    assert limited == plain


async def test_a_further_command_keeps_none_either() -> None:
    async with Container(Spec(limits=Limits(pids=50))) as box, Container(Spec()) as free:
        taken = []
        for place in (free, box):
            before = descriptors()
            async with place.open(SLEEPER):
                taken.append(descriptors() - before)
        assert taken[0] == taken[1]


async def test_watching_takes_one_more_in_version_1_and_none_in_version_2() -> None:
    spec = Spec(SLEEPER, limits=Limits(memory="100M"))
    async with Container(spec) as first, Container(spec) as second, anyio.create_task_group() as tasks:
        seen = []

        async def watch(box: Container) -> None:
            async for _ in box.events():
                pass

        for box in (first, second):
            tasks.start_soon(watch, box)
            await anyio.wait_all_tasks_blocked()
            seen.append(descriptors())
        assert first._group is not None
        home = first._group.home("memory")
        assert home is not None
        assert seen[1] - seen[0] == (1 if home.version == 1 else 0)
        tasks.cancel_scope.cancel()

"""Limited containers as their supervisor sees them: the descriptors they hold, and what a machine that can't have them says."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import anyio
import pytest
from loop.helpers import SLEEPER

from creche import Container, Limits, Spec
from needs import needs

pytestmark = needs("native", "userns", "limits")


def held(*kinds: str) -> int:
    """How many of our descriptors lead to what is called so: others come and go with what containers share."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            links.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(any(kind in link for kind in kinds) for link in links)


@pytest.mark.parametrize("lookup", [False, True], ids=["at once", "after a look at its users"])
async def test_no_descriptor_of_a_cgroup_is_kept(lookup: bool) -> None:
    """A thousand limited containers would else hold a thousand cgroup.procs in each hierarchy."""
    fields = {"user": "root:0"} if lookup else {}
    async with Container(Spec(SLEEPER, limits=Limits(pids=50, memory="100M", cpus=1), **fields)) as box:
        assert held("/cgroup.procs") == 0
        assert box._group is not None
        sub = box._group.command("control")
        assert held("/cgroup.procs") < len(sub.fds) == held("/cgroup.procs"), "the control: this is how one would be seen"
        sub.close()


async def test_a_further_command_keeps_none_either() -> None:
    async with Container(Spec(limits=Limits(pids=50))) as box, box.open(SLEEPER):
        assert held("/cgroup.procs") == 0


async def test_watching_takes_one_more_in_version_1_and_none_in_version_2() -> None:
    spec = Spec(SLEEPER, limits=Limits(memory="100M"))
    async with Container(spec) as first, Container(spec) as second, anyio.create_task_group() as tasks:
        seen = []

        async def watch(box: Container) -> None:
            async for _ in box.events():
                pass

        before = held("[eventfd]"), held("inotify")
        for box in (first, second):
            tasks.start_soon(watch, box)
            await anyio.wait_all_tasks_blocked()
            seen.append((held("[eventfd]") - before[0], held("inotify") - before[1]))
        assert first._group is not None
        home = first._group.home("memory")
        assert home is not None
        assert seen == ([(1, 1), (2, 1)] if home.version == 1 else [(0, 1), (0, 1)])
        tasks.cancel_scope.cancel()


TRY = """
import anyio
from creche import Limits, UnsupportedError, run
async def main():
    print((await run(["true"])).exit.ok)
    try:
        print((await run(["true"], limits=Limits(memory="64M"))).exit.ok)
    except UnsupportedError as error:
        print(error, error.hint)
anyio.run(main)
"""
READ_ONLY = """
grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/self/mounts | while read -r _ point _; do mount -o remount,bind,ro "$point"; done
exec "$@"
"""


@needs("root")
def test_where_cgroups_are_mounted_read_only_limits_are_refused_and_nothing_else_is() -> None:
    told = []
    for script in ('exec "$@"', READ_ONLY):
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", TRY]
        told.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
    writable, readonly = told
    assert writable == ["True", "True"], "the control: the same, where they are writable"
    assert readonly[0] == "True"
    assert "limits.memory" in readonly[1] and "read-only" in readonly[1]

"""Supervisors under storms: cancelled at every step, thousands of children, random deaths; nothing is ever left running."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import anyio
import anyio.lowlevel
import pytest
from supervisor.fakes import World, settle

from creche.spec import Spec
from creche.supervisor import Backoff, ChildSpec, Line, Supervisor
from needs import needs


@pytest.fixture
def world():
    return World()


def left(world):
    """Children that were started and never came to an end."""
    return [
        name for name in set(world.started()) if world.log.count(f"+{name}") != world.log.count(f"~{name}")
    ]


async def test_a_cancellation_at_any_step_leaves_nothing(world):
    """The step at which it comes is counted in turns of the loop; the last ones come after all was ready."""
    reached = 0
    for turns in range(40):
        children = [
            world.child("a"),
            world.child("b", depends_on=["a"]),
            world.child("c", box={"slow": 0.001}),
        ]
        async with anyio.create_task_group() as tasks:

            async def run(children=children):
                nonlocal reached
                async with Supervisor(children, intensity=None) as sup:
                    await sup.wait_ready()
                    reached += 1
                    sup.restart("a")
                    await sup.wait()

            tasks.start_soon(run)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            if turns > 30:
                await anyio.sleep(0.005)
            if turns > 35:
                with anyio.fail_after(20):
                    while not reached:  # a busy machine takes longer
                        await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        assert left(world) == []
    assert reached > 0, "no cancellation came late enough to prove anything"


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_two_thousand_children_start_fall_and_stop(world, anyio_backend):
    child = world.child("w", count=2000, depends_on=[])
    with anyio.fail_after(60):
        async with Supervisor([child], intensity=None) as sup:
            await sup.wait_ready()
            assert len(sup.children) == 2000
            boxes = world.boxes["w"]  # the last one: their fakes share a name
            for _ in range(50):
                boxes.end(1)
                await settle()
                await sup.wait_ready()
                boxes = world.boxes["w"]
            assert sum(view.restarts for view in sup.children.values()) == 50
    assert left(world) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all", "rest_for_one"])
async def test_random_deaths_requests_and_clocks_leave_everything_where_it_is_wanted(world, strategy):
    rng = random.Random(strategy)
    children = [world.child(name, shutdown=0.01, box={"deaf": rng.random() < 0.3}) for name in "abcdef"]
    with anyio.fail_after(60):
        async with Supervisor(children, strategy=strategy, intensity=None) as sup:
            for _ in range(150):
                name = rng.choice("abcdef")
                match rng.randrange(6):
                    case 0 | 1 | 2 if name in world.boxes:
                        world.boxes[name].end(rng.randrange(2))
                    case 3:
                        sup.restart(name)
                    case 4:
                        sup.start(name)
                    case 5:
                        await sup.stop(name)
                await settle(rng.randrange(4))
            sup.start(*"abcdef")
            await sup.wait_ready()
            assert {view.state for view in sup.children.values()} == {"ready"}
    assert left(world) == []


async def kill_at_random(count, seconds, pause):
    """Descriptors are what they were, and every worker is up again; how many were killed."""
    spec = Spec(["sh", "-c", "echo up; exec sleep 1000"])
    child = ChildSpec(
        "w",
        spec,
        count=count,
        readiness=Line("up"),
        depends_on=[],
        shutdown=0,
        backoff=Backoff(first=0.01, most=0.05),
    )
    rng = random.Random(1)

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    async with Supervisor([child], intensity=None) as sup:
        await sup.wait_ready()
        before, killed = descriptors(), 0
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            view = sup[f"w.{rng.randint(1, count)}"]
            if view.pid and view.state == "ready":
                # One that was killed a moment ago may not have been told of yet.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(view.pid, signal.SIGKILL)
                    killed += 1
            await anyio.sleep(pause)
        await sup.wait_ready()
        assert descriptors() == before
        assert sum(view.restarts for view in sup.children.values()) >= killed - count
        assert {view.state for view in sup.children.values()} == {"ready"}
    return killed


@needs("userns")
@pytest.mark.slow
async def test_a_killer_ends_random_workers():
    assert await kill_at_random(count=5, seconds=2, pause=0.01) > 5


@needs("userns")
@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_killer_ends_random_workers_for_two_minutes():
    assert await kill_at_random(count=30, seconds=120, pause=0.02) > 200

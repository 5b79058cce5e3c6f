"""Back-off, period, probes and old age on trio's virtual clock: hours pass in no time, and to the second."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from supervisor.fakes import World

from creche.errors import SpecError
from creche.supervisor import events
from creche.supervisor.childspec import ChildSpec, Hooks, Recycle
from creche.supervisor.conductor import GaveUp
from creche.supervisor.probes import Ask, Command, Delay
from creche.supervisor.restarts import Backoff
from creche.supervisor.supervisor import Supervisor

pytestmark = pytest.mark.trio


@pytest.fixture
def world():
    return World()


async def collect(sup, kind, count):
    found = []
    async for event in sup.events():
        if isinstance(event, kind):
            found.append((round(trio.current_time() - START[0], 3), event))
            if len(found) == count:
                return found
    raise AssertionError(f"only {len(found)} of {count}")


START = [0.0]


@pytest.fixture(autouse=True)
async def begin(autojump_clock):
    START[0] = trio.current_time()


async def test_a_child_that_keeps_failing_is_started_ever_more_rarely(world, autojump_clock):
    backoff = Backoff(first=1, factor=2, most=8, jitter=0, healthy=60)
    world.options["a"] = {"spawn_error": OSError(11, "try again")}
    async with Supervisor([world.child("a", backoff=backoff)], intensity=None) as sup:
        waits = await collect(sup, events.ChildWaiting, 6)
    assert [event.seconds for _, event in waits] == [1, 2, 4, 8, 8, 8]
    assert [at for at, _ in waits] == [0, 1, 3, 7, 15, 23]


async def test_a_healthy_time_forgets_the_failures(world, autojump_clock):
    backoff = Backoff(first=1, factor=2, most=8, jitter=0, healthy=60)
    async with Supervisor([world.child("a", backoff=backoff)], intensity=None) as sup:
        await sup.wait_ready()
        for rest, expected in ((0, 0), (0, 1), (0, 2), (59, 4), (60, 0), (0, 1)):
            await trio.sleep(rest)
            began = trio.current_time()
            world.boxes["a"].end(1)
            await trio.testing.wait_all_tasks_blocked()
            await sup.wait_ready()
            assert trio.current_time() - began == pytest.approx(expected)


async def test_restarts_within_the_period_count_and_older_ones_do_not(world, autojump_clock):
    with pytest.raises(GaveUp) as caught:
        async with Supervisor([world.child("a")], intensity=2, period=100) as sup:
            await sup.wait_ready()
            for rest in (60, 60, 60, 60, 10, 10):
                await trio.sleep(rest)
                world.boxes["a"].end(1)
                await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - START[0] == pytest.approx(250)
    assert len(caught.value.history) == 3


async def test_jitter_is_drawn_from_the_given_source(world, autojump_clock):
    world.options["a"] = {"spawn_error": OSError(11, "try again")}
    backoff = Backoff(first=10, factor=1, jitter=0.5)
    async with Supervisor([world.child("a", backoff=backoff)], intensity=None, random=lambda: 0.5) as sup:
        waits = await collect(sup, events.ChildWaiting, 2)
    assert [event.seconds for _, event in waits] == [pytest.approx(7.5)] * 2


async def test_a_child_that_is_not_ready_in_time_is_stopped_and_counts(world, autojump_clock):
    child = world.child("a", readiness=Delay(3600), start_timeout=30)
    with pytest.raises(GaveUp) as caught:
        async with Supervisor([child], intensity=0) as sup:
            await sup.wait()
    assert trio.current_time() - START[0] == pytest.approx(30)
    assert "not ready within 30 s" in caught.value.history[0].explain()


async def test_a_probe_that_fails_as_often_as_allowed_makes_a_child_unhealthy(world, autojump_clock):
    child = world.child("a", liveness=Command(["check"], every=10, failures=3))
    async with Supervisor([child], intensity=None) as sup:
        await sup.wait_ready()
        first = world.boxes["a"]
        await trio.sleep(35)
        assert sup["a"].life == 1
        first.command_code = 1
        await trio.sleep(20)
        first.command_code = 0
        await trio.sleep(10)
        first.command_code = 1
        await trio.sleep(25)
        assert sup["a"].life == 1, "a success in between starts the count anew"
        await trio.sleep(10)
        await sup.wait_ready()
        assert sup["a"].life == 2
        assert "failed 3 times in a row" in sup["a"].records[0].why


async def test_a_probe_that_hangs_has_failed(world, autojump_clock):
    async def hang(box):
        await trio.sleep_forever()

    child = world.child("a", liveness=Ask(hang, every=1, timeout=2, failures=2))
    async with Supervisor([child], intensity=None) as sup:
        (at, event), *_ = await collect(sup, events.ChildUnhealthy, 1)
    assert at == pytest.approx(6) and "TimeoutError" in event.why


async def test_readiness_wants_so_many_successes_in_a_row(world, autojump_clock):
    answers = iter([False, True, False, True, True, True])

    def ask(box):
        assert next(answers)

    child = world.child("a", readiness=Ask(ask, every=1, successes=3))
    async with Supervisor([child], intensity=None) as sup:
        await sup.wait_ready()
    assert trio.current_time() - START[0] == pytest.approx(5)


async def test_workers_are_replaced_by_age_and_not_all_at_once(world, autojump_clock):
    numbers = iter([0.0, 0.25, 0.5, 0.75])
    child = world.child("w", count=4, recycle=Recycle(age=1000, jitter=0.4))
    async with Supervisor([child], intensity=0, random=lambda: next(numbers, 0.0)) as sup:
        recycled = await collect(sup, events.ChildRecycled, 4)
        await sup.wait_ready()
    assert [at for at, _ in recycled] == [700, 800, 900, 1000]


async def test_so_many_requests_are_fewer_by_a_random_share():
    recycle = Recycle(requests=1000, jitter=0.4)
    assert [recycle.sooner(1000, random) for random in (0.0, 0.25, 0.5)] == [1000, 900, 800]
    for nonsense in (0, -1, 1.5, True, "many"):
        with pytest.raises(SpecError, match=r"recycle\.requests"):
            Recycle(requests=nonsense)
    with pytest.raises(SpecError, match=r"Recycle\(requests=…\) need a Spec"):
        ChildSpec("w", lambda: None, recycle=recycle)


async def test_a_worker_that_grew_too_big_is_replaced(world, autojump_clock):
    child = world.child("w", recycle=Recycle(memory=1000, every=5))
    async with Supervisor([child], intensity=0) as sup:
        await sup.wait_ready()
        await trio.sleep(7)
        world.boxes["w"].memory = 1001
        (at, event), *_ = await collect(sup, events.ChildRecycled, 1)
    assert at == pytest.approx(10) and "1001 bytes" in event.why


async def test_a_stop_is_bounded_even_if_a_kill_does_not_end_it(world, autojump_clock):
    child = world.child("a", box={"deaf": True, "immortal": True}, shutdown=5)
    async with Supervisor([child]) as sup:
        await sup.wait_ready()
    assert trio.current_time() - START[0] == pytest.approx(15)
    assert world.log == ["+a", "-a", "!a", "~a"]


async def test_a_hook_that_hangs_is_bounded(world, autojump_clock):
    async def hang(child):
        await trio.sleep_forever()

    async with Supervisor(
        [world.child("a", hooks=Hooks(stop=hang, exit=hang, timeout=3), shutdown=5)]
    ) as sup:
        await sup.wait_ready()
    assert trio.current_time() - START[0] == pytest.approx(6)

"""Reloading: only what changed, so many at a time, and back as it was if it does not become ready."""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve
from supervisor.fakes import World, settle

from creche.errors import SpecError
from creche.spec import Spec
from creche.supervisor import Ask, ChildSpec, Completed, Delay, Reloaded, Supervisor


@pytest.fixture
def world():
    return World()


def never(box):
    raise RuntimeError("not yet")


async def test_only_what_changed_is_touched(world):
    a, b = world.child("a"), world.child("b")
    async with Supervisor([a, b]) as sup:
        await sup.wait_ready()
        told = await sup.reload([a, evolve(b, shutdown=1.0)])
        assert told.changed == ("b",) and told.failed is None
        assert (sup["a"].life, sup["b"].life) == (1, 2)
        assert sup["b"].spec.shutdown == 1.0


async def test_new_ones_are_added_absent_ones_removed_and_counts_followed(world):
    a, b = world.child("a"), world.child("b", count=2)
    async with Supervisor([a, b]) as sup:
        await sup.wait_ready()
        await sup.reload([evolve(b, count=3), world.child("c")])
        await sup.wait_ready()
        assert list(sup.children) == ["b.1", "b.2", "b.3", "c"]
        assert sup["b.1"].life == 1


async def test_so_many_at_a_time_and_the_next_only_when_these_are_ready(world):
    child = world.child("w", count=5)
    async with Supervisor([child]) as sup:
        await sup.wait_ready()
        world.clear()
        running = most_down = 0
        await sup.reload([evolve(child, readiness=Delay(0.001))], at_once=2)
        down = 0
        for line in world.log:
            down += {"-": 1, "+": -1}.get(line[0], 0)
            most_down = max(most_down, down)
        assert most_down == 2 and down == 0 and running == 0
        assert {view.life for view in sup.children.values()} == {2}


async def test_a_new_one_that_does_not_become_ready_is_rolled_back(world):
    child = world.child("w", count=3)
    answers = iter([True])

    def ask(box):
        assert next(answers, False)

    async with Supervisor([child], intensity=0) as sup:
        reader = sup.events()
        await sup.wait_ready()
        changed = evolve(child, readiness=Ask(ask, every=0.001), start_timeout=0.5)
        with anyio.fail_after(10):
            told = await sup.reload([changed, world.child("new")])
        assert told.failed == "w.2" and told.changed == ("w.1", "w.2")
        assert "not ready within 0.5 s" in told.why
        await sup.wait_ready()
        assert list(sup.children) == ["w.1", "w.2", "w.3"]
        assert {view.state for view in sup.children.values()} == {"ready"}
        assert {view.spec for view in sup.children.values()} == {child}
        assert [view.life for view in sup.children.values()] == [3, 3, 1], "the third was never touched"
        sup.terminate()
        assert [event async for event in reader if isinstance(event, Reloaded)] == [told]


async def test_a_child_that_falls_while_another_is_reloaded_is_restarted(world):
    a, b = world.child("a"), world.child("b")
    async with Supervisor([a, b], intensity=None) as sup:
        await sup.wait_ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sup.reload, [a, evolve(b, readiness=Delay(0.05))])
            await settle()
            world.boxes["a"].end(1)
        await sup.wait_ready()
        assert (sup["a"].life, sup["b"].life) == (2, 2)


async def test_a_child_restarted_on_request_while_it_is_reloaded_comes_to_rest(world):
    a = world.child("a")
    async with Supervisor([a], intensity=0) as sup:
        await sup.wait_ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sup.reload, [evolve(a, readiness=Delay(0.05))])
            await settle()
            sup.restart("a")
            await settle()
            sup.restart("a")
        await sup.wait_ready()
        assert sup["a"].state == "ready" and sup["a"].spec.readiness == Delay(0.05)


async def test_a_reload_that_is_cancelled_is_put_back_whole(world):
    """Wherever it comes: among children that are done, in the one under way, or never reached; new ones are let go."""
    a, b = world.child("a", count=3), world.child("b")
    answers = iter([True])

    def ask(box):
        assert next(answers, False)

    async with Supervisor([a, b], intensity=0) as sup:
        await sup.wait_ready()
        changed = evolve(a, readiness=Ask(ask, every=0.001), start_timeout=None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sup.reload, [evolve(b, shutdown=3.0), changed, world.child("new")])
            with anyio.fail_after(10):
                while sup["a.2"].life == 1 or sup["a.2"].state != "starting":
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            await sup.wait_ready()
            while "new" in sup.children:
                await anyio.sleep(0.001)
        assert {(view.state, view.spec) for view in sup.children.values()} == {("ready", a), ("ready", b)}
        told = await sup.reload([a, b])
        assert told.changed == () and told.failed is None, "nothing is left to be put back"


async def test_new_children_are_all_taken_on_or_none(world):
    a = world.child("a")
    bad = ChildSpec("bad", Spec(["true"]), listen=["nothing"])
    async with Supervisor([a]) as sup:
        await sup.wait_ready()
        with pytest.raises(SpecError, match="the supervisor's sockets are"):
            await sup.reload([a, world.child("good"), bad])
        with pytest.raises(SpecError, match="the supervisor's sockets are"):
            sup.add(bad)
        await settle()
        assert list(sup.children) == ["a"]
        sup.add(world.child("bad"))  # the name of what was refused is free
        await sup.wait_ready()
        assert list(sup.children) == ["a", "bad"]


async def test_a_child_that_was_stopped_gets_its_new_spec_and_stays_down(world):
    a = world.child("a")
    async with Supervisor([a]) as sup:
        await sup.wait_ready()
        await sup.stop("a")
        await sup.reload([evolve(a, shutdown=2.0)])
        assert sup["a"].state == "down"
        sup.start("a")
        await sup.wait_ready()
        assert sup["a"].spec.shutdown == 2.0


async def test_the_supervisor_may_end_in_the_middle_of_a_reload(world):
    a = world.child("a")
    async with Supervisor([a]) as sup:
        await sup.wait_ready()
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as tasks:

                async def reload():
                    with pytest.raises(Exception, match="middle of a reload"):
                        await sup.reload([evolve(a, readiness=Ask(never), start_timeout=None)])

                tasks.start_soon(reload)
                await settle()
                sup.terminate()
                await sup.wait()
    assert world.log[-1] == "~a"


async def test_what_cannot_change_is_refused_before_anything_is_touched(world):
    a, b = world.child("a"), world.child("b")
    async with Supervisor([a, b]) as sup:
        await sup.wait_ready()
        for changed in (evolve(b, depends_on=[]), evolve(b, count=2)):
            with pytest.raises(SpecError, match="remove and add"):
                await sup.reload([evolve(a, shutdown=3.0), changed])
        assert {view.life for view in sup.children.values()} == {1}


async def test_a_task_that_is_done_counts_as_well_when_it_is_reloaded(world):
    task = world.child("t", restart="transient", readiness=Completed())
    async with Supervisor([task]) as sup:
        await settle()
        world.boxes["t"].end(0)
        await sup.wait_ready()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sup.reload, [evolve(task, shutdown=1.0)])
            await settle()
            world.boxes["t"].end(0)
        assert sup["t"].state == "done" and sup["t"].life == 2

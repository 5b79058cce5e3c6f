"""Admission: so many at once, so much memory, so many starting, and by turns between tenants."""

from __future__ import annotations

import anyio
import pytest
from supervisor.fakes import World, settle

from creche.errors import SpecError
from creche.spec import Limits, Spec
from creche.supervisor import Admission, ChildSpec, ChildStarting, Delay, Supervisor


@pytest.fixture
def world():
    return World()


def states(sup):
    return sorted(view.state for view in sup.children.values())


async def test_so_many_run_at_once_and_the_next_is_let_in_when_one_is_gone(world):
    children = [world.child(name, depends_on=[]) for name in "abcd"]
    admission = Admission(running=2)
    async with Supervisor(children, intensity=None, admission=admission) as sup:
        await settle()
        assert states(sup) == ["admission", "admission", "ready", "ready"]
        await sup.stop(next(name for name, view in sup.children.items() if view.state == "ready"))
        await settle()
        assert states(sup) == ["admission", "down", "ready", "ready"]
    assert admission.waiting == 0


async def test_so_many_start_at_once(world):
    child = world.child("w", count=6, readiness=Delay(0.05), depends_on=[])
    async with Supervisor([child], admission=Admission(starting=2)) as sup:
        most = 0
        while any(view.state != "ready" for view in sup.children.values()):
            most = max(most, sum(view.state == "starting" for view in sup.children.values()))
            await anyio.sleep(0.001)
    assert most == 2


async def test_tenants_are_let_in_by_turns():
    admission = Admission(running=1)
    first = await admission.enter("x", 0)
    order = []

    async def come(tenant, name):
        ask = await admission.enter(tenant, 0)
        order.append(name)
        admission.leave(ask)

    async with anyio.create_task_group() as tasks:
        for tenant, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
            tasks.start_soon(come, tenant, name)
            await settle()
        admission.leave(first)
    assert order.index("b1") < order.index("a3")


async def test_memory_is_shared_out_and_a_big_one_is_not_starved_by_small_ones():
    admission = Admission(memory=100)
    small = await admission.enter("t", 60)
    entered = []

    async def come(name, memory):
        ask = await admission.enter("t", memory)
        entered.append(name)
        admission.leave(ask)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come, "big", 90)
        await settle()
        tasks.start_soon(come, "small", 20)
        await settle()
        assert entered == []
        admission.leave(small)
    assert entered == ["big", "small"]


async def test_who_is_cancelled_while_he_waits_holds_nobody_up():
    admission = Admission(memory=100)
    held = await admission.enter("t", 60)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admission.enter, "t", 90)
        await settle()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(20):
        admission.leave(await admission.enter("t", 40))
    admission.leave(held)
    assert admission.waiting == 0


async def test_a_stop_gets_in_while_a_child_waits_to_be_let_in(world):
    children = [world.child(name, depends_on=[]) for name in "ab"]
    async with Supervisor(children, admission=Admission(running=1)) as sup:
        await settle()
        (waiting,) = [name for name, view in sup.children.items() if view.state == "admission"]
        with anyio.fail_after(20):
            await sup.stop(waiting)
        assert sup[waiting].state == "down"


async def test_how_long_each_waited_is_told(world):
    children = [world.child(name, depends_on=[]) for name in "ab"]
    async with Supervisor(children, admission=Admission(running=1)) as sup:
        reader = sup.events()
        await settle()
        await anyio.sleep(0.5)
        await sup.stop(next(name for name, view in sup.children.items() if view.state == "ready"))
        await sup.wait_ready()
    first, second = [event.waited async for event in reader if isinstance(event, ChildStarting)]
    assert second >= 0.5 > first  # a busy machine may hold up the first for a moment too


async def test_what_never_fits_is_refused_when_it_is_taken_on():
    for spec, wish in (
        (Spec(["x"]), "needs to know it"),
        (Spec(["x"], limits=Limits(memory="2M")), "never fits"),
    ):
        with pytest.raises(SpecError, match=wish):
            async with Supervisor([ChildSpec("a", spec)], admission=Admission(memory=2**20)):
                pass


def test_nonsense_is_refused():
    with pytest.raises(SpecError, match=r"admission\.running"):
        Admission(running=0)

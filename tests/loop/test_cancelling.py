"""Cancelled at every await there is: nothing returns before the reap, and nothing is left (J8 of the catalogue of attacks)."""

from __future__ import annotations

import os
import random

import anyio
import pytest
from loop.helpers import BOUND, SLEEPER, alive, below, cancelled_at, shell

import creche
from creche import Container, CrecheError, Reason, Spec
from needs import needs

pytestmark = needs("native", "userns")


async def everywhere(use, least):
    """Runs `use()` cancelled at its first await, at its second, … until it ends before that comes."""
    mine = below(os.getpid())
    for number in range(1, 200):
        with anyio.fail_after(BOUND), anyio.CancelScope() as scope:
            driven = cancelled_at(use(), number, scope)
            await driven
        assert below(os.getpid()) <= mine, f"cancelled at await {number}: something lives on"
        if driven.count < number:
            assert number > least, "the count of awaits is wrong: nothing was tried"
            return
    raise AssertionError("it never ended")


USES = {}


def use(function):
    USES[function.__name__] = function
    return function


@use
async def start_and_leave():
    async with Container(Spec(SLEEPER)):
        pass


@use
async def start_without_an_init():
    async with Container(Spec(SLEEPER, init=False)):
        pass


@use
async def start_with_a_user_looked_up():
    async with Container(Spec(SLEEPER, user="root")):
        pass


@use
async def start_with_a_terminal():
    async with Container(Spec(SLEEPER, tty=True)) as box:
        await box.stdin.send(b"x")


@use
async def start_and_wait():
    async with Container(Spec(["true"])) as box:
        await box


@use
async def await_alone():
    await Container(Spec(shell("echo x")))


@use
async def one_run():
    await creche.run(["cat"], input=b"x", timeout=100)


@use
async def a_start_that_fails():
    try:
        async with Container(Spec(["/no/such/thing"])):
            raise AssertionError
    except creche.SpawnError:
        pass


@use
async def commands_in_a_place():
    async with Container(Spec()) as box:
        await box.run(["true"])
        async with box.open(["cat"]) as process:
            await process.stdin.send(b"x")
            await process.stdout.receive()


@use
async def files_in_a_place():
    async with Container(Spec()) as box:
        await box.put("/tmp/x", b"x")
        await box.get("/tmp/x")


@pytest.mark.parametrize("name", USES)
async def test_at_every_await(name):
    await everywhere(USES[name], least=1)


@pytest.mark.parametrize("where", ["run", "open", "get", "put"])
async def test_the_place_outlives_what_is_cancelled_in_it(where):
    async with Container(Spec()) as box:

        async def once():
            if where == "run":
                await box.run(["echo", "x"])
            elif where == "open":
                async with box.open(SLEEPER) as process:
                    await process.stdin.send(b"x")
            elif where == "get":
                await box.get("/etc/passwd")
            else:
                await box.put("/tmp/x", bytes(5 << 20))

        mine = None
        for number in range(1, 100):
            with anyio.fail_after(BOUND), anyio.CancelScope() as scope:
                driven = cancelled_at(once(), number, scope)
                await driven
            inside = below(box.init_pid)
            mine = mine if mine is not None else inside
            assert inside <= mine, f"cancelled at await {number}: its command lives on"
            assert set(box._processes) == {1} and not box._answers and not box._asked
            if driven.count < number:
                break
        assert (await box.run(["echo", "still here"])).stdout == b"still here\n"


async def storm(number, dice):
    """So many spawns at once, each cancelled at a random moment."""
    mine = below(os.getpid())
    ended = 0

    async def one():
        nonlocal ended
        with anyio.move_on_after(dice.choice([0, 0.001, 0.01, 0.1]) * dice.random()):
            kind = dice.randrange(4)
            if kind == 0:
                await creche.run(SLEEPER)
            elif kind == 1:
                await creche.run(shell("echo x"), timeout=dice.random() / 10)
            elif kind == 2:
                async with Container(Spec()) as box:
                    await box.run(["true"])
                    await box.run(SLEEPER)
            else:
                async with Container(Spec(SLEEPER, init=False)) as box:
                    await box
        ended += 1

    gate = anyio.CapacityLimiter(20)

    async def gated():
        async with gate:
            await one()

    with anyio.fail_after(300):
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(gated)
    assert ended == number and below(os.getpid()) <= mine


@pytest.mark.slow
async def test_a_storm_of_spawns_cancelled_at_random_moments():
    await storm(60, random.Random(1))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
async def test_a_long_storm(seed):
    await storm(500, random.Random(seed))


async def test_commands_in_one_place_cancelled_at_random_moments():
    dice = random.Random(3)
    async with Container(Spec()) as box:
        before = below(box.init_pid)

        async def one():
            with anyio.move_on_after(dice.random() / 50):
                await box.run(SLEEPER)

        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(one)
            assert below(box.init_pid) <= before and set(box._processes) == {1}
        assert (await box.run(["true"])).ok


async def test_the_body_cancelled():
    with anyio.CancelScope() as scope:
        async with Container(Spec(SLEEPER)) as box:
            pid, scope.deadline = box.pid, anyio.current_time() + 0.05
            await anyio.sleep_forever()
    assert scope.cancelled_caught and not alive(pid) and box.exit.reason is Reason.KILLED


async def test_cancelled_while_closing_it_goes_on_closing():
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with Container(Spec(SLEEPER)) as box:
                pid = box.pid
                tasks.start_soon(anyio.sleep, 0)
                scope.cancel()
        assert not alive(pid) and box.exit is not None


async def test_a_task_group_is_cancelled_with_what_it_holds():
    boxes = []

    async def hold():
        async with Container(Spec(SLEEPER)) as box:
            boxes.append(box)
            await box

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(hold)
        while len(boxes) < 10:
            await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
    assert all(box.exit.reason is Reason.KILLED for box in boxes)


async def test_the_child_dies_at_any_moment_of_its_start():
    """Its first process is killed from outside while it starts: an error with a sentence, and nothing is left."""
    mine = below(os.getpid())
    for number in range(40):
        async with anyio.create_task_group() as tasks:

            async def kill(number=number):
                for _ in range(2000):
                    for pid in below(os.getpid()) - mine:
                        for _ in range(number % 10):
                            await anyio.lowlevel.checkpoint()
                        try:
                            os.kill(pid, 9)
                        except ProcessLookupError:
                            continue
                        return
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(kill)
            try:
                with anyio.fail_after(BOUND):
                    async with Container(Spec(SLEEPER)) as box:
                        exit = await box
                        assert exit.reason in (Reason.LOST, Reason.SIGNALED)
            except CrecheError as error:
                assert str(error)
            tasks.cancel_scope.cancel()
        assert below(os.getpid()) <= mine

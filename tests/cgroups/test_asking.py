"""The place is looked for once: by one of many who ask together, and again where it was a bus that was not well."""

from __future__ import annotations

import math
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from loop.helpers import BOUND

from creche.cgroups import choose, find_place_async, reset
from creche.cgroups.hierarchy import Hierarchy
from creche.cgroups.place import Place
from creche.errors import CgroupError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Place | CgroupError]]:
    """What a systemd of ours answers, in turn, wherever we stand; what is left is what was not asked for."""
    answers: list[Place | CgroupError] = []

    async def ask(near: Place, **_: object) -> Place:
        await anyio.sleep(0.01)
        answer = answers.pop(0)
        if isinstance(answer, CgroupError):
            raise answer
        return answer

    reset()
    monkeypatch.setattr(choose, "here", lambda asked: Place("none"))
    monkeypatch.setattr(choose, "older", lambda near, asked: near)
    monkeypatch.setattr(choose, "_systemd", ask)
    yield answers
    reset()


async def test_of_many_who_ask_at_once_one_looks(asked: list[Place | CgroupError]) -> None:
    """Hundreds of starts begin with it: each with a question of its own, the bus of a slow machine answers none in time."""
    asked += [Place("systemd", (Hierarchy(2, f"/{number}", frozenset({"memory"}), "/"),)) for number in range(300)]
    found = []

    async def one() -> None:
        found.append(await find_place_async())

    async with anyio.create_task_group() as tasks:
        for _ in range(300):
            tasks.start_soon(one)
    assert len(asked) == 299 and len(found) == 300 and {place.hierarchies[0].folder for place in found} == {"/0"}


async def test_who_waits_for_the_one_that_looks_is_not_lost_with_it(asked: list[Place | CgroupError]) -> None:
    asked += [Place("systemd", (Hierarchy(2, f"/{number}", frozenset({"memory"}), "/"),)) for number in range(2)]
    found, first = [], anyio.CancelScope()

    async def one() -> None:
        found.append(await find_place_async())

    async def leave() -> None:
        with first:
            await one()

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(one)
            await anyio.lowlevel.checkpoint()
            first.cancel()
    assert len(found) == 1 and found[0].usable


async def test_a_bus_that_was_not_well_is_asked_again_after_a_while(asked: list[Place | CgroupError], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been busy; but not at once, or each start would wait for it. What systemd has said itself stays said."""
    there = Place("systemd", (Hierarchy(2, "/scope", frozenset({"memory"}), "/"),))
    asked += [CgroupError("did not answer", path="/bus", hint="wait"), there]
    refused = await find_place_async()
    assert not refused.usable and refused.reasons == ("did not answer: '/bus'",) and refused.hint == "wait"
    assert await find_place_async() is refused
    monkeypatch.setattr(choose, "_until", dict.fromkeys(choose._until, 0.0))
    assert await find_place_async() is there and not asked
    reset()
    asked.append(Place("none", reasons=("no systemd",)))
    said = await find_place_async()
    assert [*choose._until.values()] == [math.inf] and await find_place_async() is said

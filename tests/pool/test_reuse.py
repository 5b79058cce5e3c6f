"""Pool(reuse="reset"): the same containers again, of which no guest can tell what another did; and the check of each."""

from __future__ import annotations

import os

import anyio
import pytest
from loop.helpers import until
from state.remains import REMAINS

from creche import Bind, Container, CrecheError, Pool, Spec, SpecError, UnsupportedError
from needs import needs

pytestmark = needs("userns")
BREAK = "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (16, 16))"  # of process 1, and for ever: getrlimit(2)


async def look(box: Container, command: str) -> bytes:
    return (await box.run(["sh", "-c", command], timeout=20)).stdout.strip()


@pytest.mark.parametrize("name", REMAINS)
async def test_no_guest_finds_what_another_left(name: str) -> None:
    """J4, with its control."""
    remain = REMAINS[name]
    if "processors" in name and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor alone")
    async with Pool(remain.spec, size=1, reuse="reset", maximum=1) as pool:
        async with pool.acquire() as first:
            planted = await first.run(["sh", "-c", remain.plant], timeout=20)
            if planted.stderr == b"no keys\n":
                pytest.skip("this kernel has no keys, or something around us forbids them")
            assert planted.ok, planted.stderr
            assert await look(first, remain.look)  # the control: it is there to be found
        async with pool.acquire() as second:
            assert second is first
            assert await look(second, remain.look) == b""


async def test_it_is_the_same_container_each_time() -> None:
    async with Pool(Spec(), size=2, reuse="reset") as pool:
        await until(lambda: pool.statistics().ready == 2)
        for _ in range(6):
            assert (await pool.run(["true"])).ok
        await until(lambda: pool.statistics().ready == 2)
        found = pool.statistics()
        assert (found.made, found.reset, found.failed, found.expired) == (2, 6, 0, 0)


async def test_who_waits_is_served_in_turn_from_the_same_few() -> None:
    served: list[int] = []
    async with Pool(Spec(), size=2, maximum=2, reuse="reset") as pool:

        async def use(number: int) -> None:
            async with pool.acquire() as box:
                served.append(number)
                assert await look(box, "ls /tmp; touch /tmp/mine") == b""

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(use, number)
                await until(lambda number=number: len(served) + pool.statistics().waiting == number + 1)
        assert sorted(served) == list(range(12))
        # Two that are given theirs in the same turn of the loop go on in whichever order it likes: trio's is random.
        assert all(abs(place - number) <= 1 for place, number in enumerate(served)), served
        assert pool.statistics().made == 2


async def test_what_is_more_than_size_goes_when_it_comes_back() -> None:
    async with Pool(Spec(), size=1, maximum=2, reuse="reset") as pool:
        async with pool.acquire(), pool.acquire():
            assert pool.statistics().leased == 2
        await until(lambda: pool.statistics().starting == 0 and pool.statistics().ready == 1)
        assert pool.statistics().made == 2


async def test_one_that_its_guest_has_broken_is_replaced() -> None:
    async with Pool(Spec(), size=1, maximum=1, reuse="reset") as pool:
        async with pool.acquire() as first:
            assert (await first.run(["python3", "-c", BREAK])).ok
        async with pool.acquire() as second:
            assert second is not first and first.exit is not None
            assert (await second.run(["true"])).ok
        assert pool.statistics().expired == 1


async def test_one_that_died_or_was_ended_is_replaced() -> None:
    async with Pool(Spec(), size=1, maximum=1, reuse="reset") as pool:
        async with pool.acquire() as first:
            first.kill()
            await first.wait()
        async with pool.acquire() as second:
            assert second is not first and (await second.run(["true"])).ok


async def test_a_cancelled_block_gives_its_container_back() -> None:
    async with Pool(Spec(), size=1, maximum=1, reuse="reset") as pool:
        with anyio.move_on_after(10) as scope:
            async with pool.acquire() as first, first.open(["sleep", "1000"]) as process:
                scope.cancel()
                await process.wait()
        assert scope.cancelled_caught and process.exit is not None
        async with pool.acquire() as second:
            assert second is first and (await second.run(["true"])).ok


async def test_a_pool_that_is_closed_in_the_middle_of_a_reset_leaves_nothing() -> None:
    async with Pool(Spec(), size=1, maximum=1, reuse="reset") as pool:
        async with pool.acquire() as box:
            await box.run(["sh", "-c", "sleep 1000 & sleep 1000 &"])
        assert pool.statistics().starting == 1
    assert box.exit is not None  # and the leak check of every test


async def test_the_old_are_replaced_and_not_reset() -> None:
    async with Pool(Spec(), size=1, maximum=1, ttl=0.2, reuse="reset") as pool:
        async with pool.acquire() as first:
            await anyio.sleep(0.3)
        async with pool.acquire() as second:
            assert second is not first


async def test_a_spec_of_which_something_would_stay_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="readonly=True"):
        Pool(Spec(mounts=[Bind("/tmp", "/data")]), reuse="reset")
    with pytest.raises(SpecError, match="never"):
        Pool(Spec(), reuse="always")  # type: ignore[arg-type]


async def test_each_is_checked_before_it_is_handed_out() -> None:
    seen: list[Container] = []

    async def check(box: Container) -> bool:
        seen.append(box)
        return (await box.run(["test", "-d", "/tmp"])).ok and len(seen) != 2

    async with Pool(Spec(), size=1, maximum=1, reuse="reset", check=check) as pool:
        async with pool.acquire() as first:
            assert seen == [first]
        async with pool.acquire() as second:  # the second look refused the first one
            assert seen == [first, first, second] and first.exit is not None
        await until(lambda: pool.statistics().ready == 1)
        assert pool.statistics().expired == 1


@pytest.mark.parametrize("answer", [False, ZeroDivisionError("of the user's")])
async def test_a_check_that_refuses_is_told_to_who_waits(answer: object) -> None:
    async def check(box: Container) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return False

    async with Pool(Spec(), size=1, check=check) as pool:
        with pytest.raises(CrecheError, match="the pool's check"):
            await pool.run(["true"])
        assert pool.statistics().failed >= 1

"""Pool: containers are ready before they are asked for, used once, replaced; nobody is served out of turn."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import anyio
import pytest
from loop.helpers import BOUND, until

from creche import Container, CrecheError, Directory, Pool, Reason, SpawnError, Spec, SpecError


async def test_containers_are_ready_before_they_are_asked_for() -> None:
    async with Pool(Spec(), size=2) as pool:
        await until(lambda: pool.statistics().ready == 2)
        made = pool.statistics().made
        result = await pool.run(["echo", "hello"], timeout=20)
        assert result.stdout == b"hello\n" and result.ok
        await until(lambda: pool.statistics().ready == 2)
        assert pool.statistics().made == made + 1


async def test_no_guest_finds_what_another_left() -> None:
    async with Pool(Spec(), size=1) as pool:
        left = await pool.run(["sh", "-c", "echo secret > /tmp/left; echo secret > /dev/shm/left; cat /tmp/left"])
        assert left.stdout == b"secret\n"  # the control: it was there
        found = await pool.run(["sh", "-c", "ls -A /tmp /dev/shm"])
        assert found.stdout.split() == [b"/dev/shm:", b"/tmp:"]


async def test_what_is_leased_ends_with_its_block() -> None:
    async with Pool(Spec(), size=1) as pool:
        async with pool.acquire() as box:
            pid = box.pid
            assert (await box.run(["true"])).ok
            assert Path(f"/proc/{pid}").exists()
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(CrecheError):
            await box.run(["true"])


async def test_at_most_maximum_are_alive_and_who_waits_is_served_in_turn() -> None:
    served: list[int] = []
    async with Pool(Spec(), size=1, maximum=1) as pool, anyio.create_task_group() as tasks:

        async def use(number: int) -> None:
            async with pool.acquire() as box:
                served.append(number)
                assert pool.statistics().leased == 1
                await box.run(["true"])

        async with pool.acquire():
            for number in range(4):
                tasks.start_soon(use, number)
                await until(lambda number=number: pool.statistics().waiting == number + 1)
    assert served == [0, 1, 2, 3]


async def test_a_wait_that_is_cancelled_loses_no_container() -> None:
    async with Pool(Spec(), size=1, maximum=1) as pool:
        async with pool.acquire():
            with anyio.move_on_after(0.05):
                async with pool.acquire():
                    pytest.fail("there was none to give")
            assert pool.statistics().waiting == 0
        assert (await pool.run(["true"])).ok


async def test_one_that_was_killed_while_it_waited_is_not_handed_out() -> None:
    async with Pool(Spec(), size=1) as pool:
        await until(lambda: pool.statistics().ready == 1)
        victim = pool._ready[0]
        pidfd = os.pidfd_open(victim.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await anyio.wait_readable(pidfd)
        os.close(pidfd)
        async with pool.acquire() as box:
            assert box is not victim
            assert (await box.run(["true"])).ok


async def test_the_old_are_replaced() -> None:
    async with Pool(Spec(), size=1, ttl=0.1) as pool:
        await until(lambda: pool.statistics().expired >= 1 and pool.statistics().made >= 2)


async def test_a_start_that_fails_is_told_to_who_waits_and_tried_again(tmp_path: Path) -> None:
    root = tmp_path / "later"
    async with Pool(Spec(rootfs=Directory(root)), size=1) as pool:
        with pytest.raises(SpawnError, match="later"):
            await pool.run(["true"])
        assert pool.statistics().failed >= 1


async def test_closing_tells_those_who_wait(tmp_path: Path) -> None:
    told: list[str] = []
    pool = Pool(Spec(rootfs=Directory(tmp_path / "never")), size=1)
    pool._failures = 4  # as after many failures: the next try is seconds away

    async def wait() -> None:
        try:
            async with pool.acquire():
                pytest.fail("there was none to give")
        except CrecheError as error:
            told.append(str(error))

    async with anyio.create_task_group() as tasks, pool:
        tasks.start_soon(wait)
        await until(lambda: pool.statistics().waiting == 1)
    assert told == ["the pool was closed"]


@pytest.mark.parametrize("given", [{"size": 0}, {"size": 2, "maximum": 1}, {"ttl": -1}])
def test_nonsense_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Pool(Spec(), **given)  # type: ignore[arg-type]
    with pytest.raises(SpecError):
        Pool(Spec(["true"]))


async def test_who_comes_when_too_many_wait_is_told_at_once() -> None:
    async with Pool(Spec(), size=1, maximum=1, backlog=1) as pool, anyio.create_task_group() as tasks:
        async with pool.acquire():
            tasks.start_soon(pool.run, ["true"])
            await until(lambda: pool.statistics().waiting == 1)
            with pytest.raises(CrecheError, match=r"the pool is full: 1 containers are in use and 1 tasks wait"):
                await pool.run(["true"])
            assert pool.statistics().refused == 1
    assert pool.statistics().served == 2  # the first, and the one that waited


@pytest.mark.parametrize("reuse", ["never", "reset"])
async def test_where_nobody_comes_the_minimum_stays_and_who_comes_has_the_size_back(reuse: str) -> None:
    async with Pool(Spec(), size=3, minimum=1, idle=0.1, reuse=reuse) as pool:  # type: ignore[arg-type]
        await until(lambda: pool.statistics().expired == 2 and pool.statistics().ready == 1)
        pool.idle = 1000.0
        assert (await pool.run(["true"])).ok
        await until(lambda: pool.statistics().ready == 3)


async def test_those_that_wait_are_looked_at_again_and_the_dead_are_found() -> None:
    asked = 0

    async def check(box: Container) -> bool:
        nonlocal asked
        asked += 1
        return asked != 2

    async with Pool(Spec(), size=1, check=check, check_interval=0.05) as pool:
        await until(lambda: pool.statistics().expired == 1 and pool.statistics().made == 2)
    async with Pool(Spec(), size=1, check_interval=0.05) as pool:
        await until(lambda: pool.statistics().ready == 1)
        victim = pool._ready[0]
        victim.kill()
        await until(lambda: pool.statistics().expired == 1 and pool.statistics().ready == 1)
        assert pool._ready[0] is not victim


@pytest.mark.parametrize("reuse", ["never", "reset"])
async def test_one_that_dies_on_its_way_to_a_task_is_not_handed_out(reuse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[Container] = []
    offer = Pool._offer

    def deadly(pool: Pool, box: Container) -> None:
        offer(pool, box)
        if len(died) < 2:
            died.append(box)
            box.kill()
            select.select([box.pidfd], [], [], BOUND)

    async with Pool(Spec(), size=1, maximum=1, reuse=reuse) as pool:  # type: ignore[arg-type]
        monkeypatch.setattr(Pool, "_offer", deadly)
        with anyio.fail_after(BOUND):
            async with pool.acquire() as box:
                assert box not in died and (await box.run(["true"])).ok
                found = pool.statistics()
                assert (len(died), found.expired, found.leased, found.served) == (2, 2, 1, 1)
    assert all(box.exit is not None and box.exit.reason is Reason.KILLED for box in died)


@pytest.mark.parametrize("given", [{"minimum": 5}, {"backlog": -1}, {"idle": -1}, {"check_interval": 0}])
def test_nonsense_in_what_looks_after_them_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=next(iter(given))):
        Pool(Spec(), size=4, **given)  # type: ignore[arg-type]


async def test_who_waits_for_one_that_is_being_made_is_no_backlog() -> None:
    async with Pool(Spec(), size=1, maximum=2, backlog=0) as pool, anyio.create_task_group() as tasks:
        for _ in range(2):  # nothing is ready yet
            tasks.start_soon(pool.run, ["true"])
    assert pool.statistics().served == 2 and pool.statistics().refused == 0

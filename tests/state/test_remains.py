"""After a reset a guest finds nothing of the former one: planted, seen by a second program (the control), reset, looked for."""

from __future__ import annotations

import os

import pytest
from state.remains import REMAINS, WRITES

from creche import Container, Spec
from needs import needs

pytestmark = needs("userns")


async def found(box: Container, look: str) -> bytes:
    result = await box.run(["sh", "-c", look], timeout=10)
    assert not result.stderr, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("name", REMAINS)
async def test_nothing_is_left_of_it(name: str) -> None:
    remain = REMAINS[name]
    if "processors" in name and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor alone")
    async with Container(remain.spec) as box:
        assert await found(box, remain.look) == b""
        planted = await box.run(["sh", "-c", remain.plant], timeout=10)
        if planted.stderr == b"no keys\n":
            pytest.skip("this kernel has no keys, or something around us forbids them")
        assert planted.exit.ok, planted.stderr
        assert await found(box, remain.look)  # the control: without a reset it is there
        for _ in range(2):
            await box.reset()
            assert await found(box, remain.look) == b""


@pytest.mark.parametrize("name", WRITES)
@needs("overlay")
async def test_nothing_is_left_of_what_was_written_to_an_overlay(name: str, spec: Spec) -> None:
    plant, look = WRITES[name]
    async with Container(spec) as box:
        assert await found(box, look) == b""
        planted = await box.run(["sh", "-c", plant], timeout=10)
        assert planted.exit.ok, planted.stderr
        assert await found(box, look)
        for _ in range(2):
            await box.reset()
            assert await found(box, look) == b""


async def test_the_name_of_the_host_and_what_is_mounted_are_as_at_the_start(spec: Spec) -> None:
    async with Container(spec) as box:
        look = "hostname; cut -d' ' -f5- /proc/self/mountinfo | sed 's/master:[0-9]*//; s:fd/[0-9]*::g'; find / -xdev | sort; ls /dev; id"
        before = await box.run(["sh", "-c", look])
        await box.run(["sh", "-c", "rm -rf /etc /app; mkdir /etc; touch /tmp/x"])
        assert (await box.run(["sh", "-c", look])).stdout != before.stdout
        for _ in range(3):
            await box.reset()
            assert (await box.run(["sh", "-c", look])).stdout == before.stdout

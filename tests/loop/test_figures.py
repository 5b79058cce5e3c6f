"""What a killed container used is told as far as it is known, and never invented."""

from __future__ import annotations

import anyio
import pytest

import creche
from creche import Container, Reason, SpawnError, Spec

BUSY = ["python3", "-c", "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(flush=True)\ntime.sleep(60)"]


async def test_a_killed_commands_figures_are_its_own() -> None:
    async with Container(Spec(BUSY)) as box:
        assert box.stdout is not None
        with anyio.fail_after(30):
            await box.stdout.receive()
    assert box.exit is not None and box.exit.reason is Reason.KILLED
    usage = box.exit.usage
    assert usage.user + usage.system >= 0.25
    assert usage.memory_peak is not None and 1 << 20 < usage.memory_peak < 64 << 20


async def test_a_place_has_no_peak_of_its_inits() -> None:
    async with Container(Spec()) as box:
        pass
    assert box.exit is not None and box.exit.usage.memory_peak is None


async def test_what_never_ran_has_no_exit() -> None:
    box = Container(Spec(["true"], cwd="/nowhere"))
    with pytest.raises(SpawnError, match="cwd"):
        await box
    assert box.exit is None and box.returncode is None


async def test_a_timeout_tells_what_was_used_until_then() -> None:
    result = await creche.run(["python3", "-c", "while True: pass"], timeout=2)
    assert result.exit.reason is Reason.TIMEOUT
    assert result.exit.usage.user + result.exit.usage.system > 0.02  # of two seconds, however many others want the processors

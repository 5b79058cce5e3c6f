"""A guest that traces another is told of its death first, and may keep it from the init (ptrace(2)): nobody waits for ever."""

from __future__ import annotations

import anyio
import pytest

import creche
from creche import Container, Reason, Spec
from creche.process import is_dead
from needs import needs

pytestmark = needs("userns")

# Traces the process argv[1], or its parent, and never waits for it; says so on stdout.
TRACER = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
whom = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()
if libc.ptrace(0x4206, whom, None, None) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.write(1, b"held\\n")
time.sleep(1000)
"""
# Lets itself be traced by its child, also where Yama would forbid it, and ends.
MAIN = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
ours, theirs = os.pipe()
if os.fork() == 0:
    os.dup2(theirs, 1)
    os.execvp("python3", ["python3", "-c", {TRACER!r}])
os.close(theirs)
sys.exit(0 if os.read(ours, 9) == b"held\\n" else 3)
"""


async def test_a_main_command_whose_death_is_kept_ends_by_its_timeout() -> None:
    with anyio.fail_after(30):
        result = await creche.run(["python3", "-c", MAIN], timeout=3)
    assert result.exit.reason is Reason.TIMEOUT and result.exit.code is None, result.stderr


async def test_a_main_command_whose_death_is_kept_is_killed() -> None:
    async with Container(Spec(["python3", "-c", MAIN])) as box:
        with anyio.fail_after(20):
            await anyio.wait_readable(box.pidfd)
        with anyio.move_on_after(1.5):  # the control: dead, and nobody is told
            await box.wait()
        assert is_dead(box.pidfd) and box.exit is None
        box.kill()
        with anyio.fail_after(20):
            assert (await box.wait()).reason is Reason.KILLED


@pytest.mark.parametrize("how", ["kill", "terminate", "the end of its block"])
async def test_a_command_whose_death_another_keeps(how: str) -> None:
    async with Container(Spec()) as box:
        with anyio.fail_after(30):
            async with box.open(["python3", "-c", "import ctypes, time; ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0); print('up', flush=True); time.sleep(1000)"]) as victim:
                assert victim.stdout is not None
                await victim.stdout.receive()
                inside = (await box.run(["sh", "-c", "grep -l 'import ctypes, [t]ime' /proc/[0-9]*/cmdline | cut -d/ -f3"])).stdout.strip()
                async with box.open(["python3", "-c", TRACER, inside.decode()]) as tracer:
                    assert tracer.stdout is not None and await tracer.stdout.receive() == b"held\n"
                    if how == "kill":
                        victim.kill()
                    elif how == "terminate":
                        victim.terminate(grace=0.1)
                    else:
                        await victim.aclose()
                    if how != "the end of its block":
                        with anyio.move_on_after(0.5):  # the control: dead, and nobody is told
                            await victim.wait()
                        assert is_dead(victim.pidfd) and victim.exit is None
                        await victim.wait()
                    assert victim.exit is not None and victim.exit.reason is Reason.KILLED
        assert (await box.run(["true"])).ok

"""Family E against the clock: guests that lie in wait for what is being born, or die faster than they are buried."""

from __future__ import annotations

import json
import os
from typing import Any

import anyio
import pytest
from escape.test_init import EVERY, NO_FILTER, TOOLS
from privileged.look import inside, sh

import creche
from creche import Namespaces, Security, Spec
from needs import needs

pytestmark = needs("userns", "native")

NEWBORNS = TOOLS + """
seen, got, own = set(), [], os.getpid()
ready = os.write(1, b"ready\\n")
while not os.path.exists("/tmp/end"):
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, own):
            pid = int(name)
            for what in ("memory", "getfd", "environ"):
                achieved, answer = tried(what, pid)
                if not achieved:
                    continue
                # it may have been executed meanwhile: then it is a program like others, without a secret
                try: program = os.readlink(f"/proc/{pid}/exe")
                except OSError: program = "gone"
                if "memfd" in program or "s3cret" in answer:
                    got.append([what, program, answer])
            seen.add(pid)
print(json.dumps([len(seen), got]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("security", [NO_FILTER, Security(seccomp=None, capabilities=EVERY)], ids=["no capability", "every one that a Spec gives"])
def test_e3_newborn_commands_give_nothing_away(security: Security) -> None:
    """A guest that reads every process it sees, while commands are born: between fork and exec one has the init's memory."""

    async def body(box: creche.Container) -> Any:
        async with box.open(["python3", "-I", "-c", NEWBORNS]) as spy:
            assert spy.stdout is not None
            await spy.stdout.receive()
            count, end = 0, anyio.current_time() + 2.5
            while count <= 50 or anyio.current_time() < end:  # on a busy machine it takes longer
                await box.run(["true"], env={"TOKEN": "public"})
                count += 1
            await box.put("/tmp/end", b"")
            out = b""
            async for part in spy.stdout:
                out += part
            return json.loads(out)

    seen, got = inside(body, Spec(security=security))
    assert seen > 5
    assert got == []


def test_e4_a_process_that_is_sent_into_joined_namespaces_gives_nothing_away() -> None:
    """On its way it is a copy of the supervisor, with the supervisor's memory: a guest there may not have it."""
    secret = "s3cret-" + os.urandom(4).hex()
    os.environ["CRECHE_TEST_SECRET"] = secret
    spy = TOOLS + """
import time
own, got, seen = os.getpid(), [], set()
os.write(1, b"ready\\n")
end = time.monotonic() + 2
while time.monotonic() < end:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, own):
            seen.add(name)
            for what in ("environ", "memory", "getfd"):
                achieved, answer = tried(what, int(name))
                if achieved:
                    try: program = os.readlink(f"/proc/{name}/exe")
                    except OSError: continue
                    if "python" in program:
                        got.append([what, program, answer])
print(json.dumps([len(seen), got]))
"""

    async def body(box: creche.Container) -> Any:
        async with box.open(["python3", "-I", "-c", spy]) as process:
            assert process.stdout is not None
            await process.stdout.receive()
            pid = box.init_pid
            namespaces = Namespaces(**{kind: f"/proc/{pid}/ns/{name}" for kind, name in (("user", "user"), ("pid", "pid"), ("mount", "mnt"))})
            with anyio.move_on_after(1.5):
                while True:
                    await creche.run(["sh", "-c", "true"], namespaces=namespaces, rootfs=None, security=NO_FILTER)
            out = b""
            async for part in process.stdout:
                out += part
            return json.loads(out)

    try:
        seen, got = inside(body, Spec(security=NO_FILTER))
    finally:
        del os.environ["CRECHE_TEST_SECRET"]
    assert seen > 3
    assert got == []


ORPHANS = """
import os
for _ in range(int(os.environ["COUNT"])):
    if not os.fork():
        if not os.fork():
            os._exit(0)
        os._exit(0)
    os.wait()
print("made")
"""


@pytest.mark.slow
def test_e11_orphans_are_reaped_as_they_come() -> None:
    """Thousands of dead children of dead parents: the init takes them all, and other commands hear of their own ends."""

    async def body(box: creche.Container) -> tuple[bytes, bytes]:
        made = await box.run(["python3", "-I", "-c", ORPHANS], env={"COUNT": "3000"})
        for _ in range(100):
            left = await box.run(["sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z '"])
            if left.stdout.strip() == b"0":
                break
        return made.stdout, left.stdout.strip()

    assert inside(body, Spec()) == (b"made\n", b"0")


def test_control_without_an_init_nobody_reaps_them() -> None:
    look = ORPHANS + """
import time
def zombies(): return sum(' Z ' in open(f'/proc/{p}/stat').read() for p in os.listdir('/proc') if p.isdigit())
for _ in range(1000):  # the last of them may be dying still
    if zombies() == 20: break
    time.sleep(0.01)
print(zombies())
"""
    assert int(sh(["python3", "-I", "-c", look], env={"COUNT": "20", "PATH": "/usr/bin"}, init=False).split()[1]) == 20

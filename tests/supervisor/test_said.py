"""What a real worker says of itself on its notify socket, and what the supervisor makes of it."""

from __future__ import annotations

import anyio
import pytest

from creche.results import Reason
from creche.spec import Spec
from creche.supervisor import ChildEnded, ChildRecycled, ChildSpec, GaveUp, Line, Notify, Recycle, Supervisor
from needs import needs

pytestmark = needs("userns")

SAYS = """
import os, signal, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
def say(*words): s.send("\\n".join(words).encode())
"""


def says(text, **fields):
    return Spec(["python3", "-u", "-c", SAYS + text], **fields)


SERVES = """
print("up")
for served in range(10, 1000, 10):
    say(f"X_CRECHE_REQUESTS={served}")
    time.sleep(0.01)
time.sleep(1000)
"""


async def test_a_worker_that_has_served_so_many_requests_is_replaced_and_that_is_no_restart(anyio_backend):
    recycle = Recycle(requests=200, jitter=0.5)
    child = ChildSpec("w", says(SERVES), readiness=Line("up"), recycle=recycle, shutdown=0)
    with anyio.fail_after(30):
        async with Supervisor([child], intensity=0, random=lambda: 0.5) as sup:
            told = []
            async for event in sup.events():
                if isinstance(event, (ChildRecycled, ChildEnded)):
                    told.append(event)
                if len(told) == 4:
                    break
    first, ended, second, _ = told
    assert isinstance(ended, ChildEnded) and ended.record.asked
    for event in (first, second):  # 200, less a quarter
        assert event.why.startswith("it has served ") and 150 <= int(event.why.split()[3]) < 200


async def test_a_worker_that_ends_by_itself_after_so_many_is_a_restart_like_any_other(anyio_backend):
    """The control, and why the supervisor is better told: two workers that end well may be one restart too many."""
    child = ChildSpec("w", Spec(["true"]), count=2)
    with anyio.fail_after(30), pytest.raises(GaveUp):
        async with Supervisor([child], intensity=1, period=60) as sup:
            await sup.wait()


SLOW_START = """
say("EXTEND_TIMEOUT_USEC=20000000")
time.sleep(0.8)
say("READY=1", f"MAINPID={os.getpid()}")
time.sleep(0.1)
say("RELOADING=1")
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.parametrize("extend", [30.0, 0.0], ids=["allowed", "not allowed"])
async def test_a_start_that_asks_for_more_time_gets_it_within_bounds(anyio_backend, extend):
    """Where none is allowed it is the control: the same worker is too late."""
    child = ChildSpec("w", says(SLOW_START), readiness=Notify(extend=extend), start_timeout=0.5, shutdown=0)
    with anyio.fail_after(30):
        if not extend:
            with pytest.raises(GaveUp) as caught:
                async with Supervisor([child], intensity=0) as sup:
                    await sup.wait()
            assert "within 0.5 s" in caught.value.history[0].explain()
            return
        async with Supervisor([child], intensity=0) as sup:
            await sup.wait_ready()
            assert sup["w"].life == 1 and not sup["w"].reloading and sup["w"].main_pid == 2
            while not sup["w"].reloading:
                await anyio.sleep(0.01)


SLOW_STOP = """
def stop(*_):
    say("STOPPING=1", "EXTEND_TIMEOUT_USEC=20000000")
    time.sleep(0.8)
    print("all is written")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
say("READY=1")
while True: time.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.parametrize("extend", [30.0, 0.0], ids=["allowed", "not allowed"])
async def test_a_stop_that_asks_for_more_time_gets_it_within_bounds(anyio_backend, extend):
    """Bounded, or a guest that asks again and again would never let its supervisor go."""
    child = ChildSpec("w", says(SLOW_STOP), readiness=Notify(extend=extend), shutdown=0.3)
    with anyio.fail_after(30):
        async with Supervisor([child]) as sup:
            await sup.wait_ready()
            await sup.stop("w")
            record = sup["w"].records[-1]
    assert record.clean == bool(extend) and (b"all is written" in record.lines) == bool(extend)
    assert record.exit.reason is (Reason.EXITED if extend else Reason.KILLED)

"""The supervisor with real containers: what the rules promise holds for processes that the kernel runs."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

import anyio
import pytest
from attrs import evolve

from creche.errors import ExitError
from creche.results import Reason
from creche.spec import Namespaces, Spec
from creche.supervisor import conductor, events
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.conductor import GaveUp
from creche.supervisor.probes import Command, Completed, Line, Notify
from creche.supervisor.supervisor import Supervisor
from needs import needs

pytestmark = needs("userns")

SLEEPER = ["sleep", "1000"]


def shell(text, **fields):
    return Spec(["sh", "-c", text], **fields)


async def test_a_killed_worker_is_replaced_and_nothing_is_left(anyio_backend):
    with anyio.fail_after(20):
        async with Supervisor([ChildSpec("w", Spec(SLEEPER), count=3)], intensity=None) as sup:
            await sup.wait_ready()
            before = {name: view.pid for name, view in sup.children.items()}
            os.kill(before["w.2"], signal.SIGKILL)
            while sup["w.2"].life == 1 or sup["w.2"].state != "ready":
                await anyio.sleep(0.01)
            after = {name: view.pid for name, view in sup.children.items()}
            assert {name for name in before if before[name] != after[name]} == {"w.2"}
            assert sup["w.2"].records[0].exit.signal == signal.SIGKILL
    for pid in (*before.values(), *after.values()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("at_once", [4, 1000])
async def test_many_that_start_together_hold_no_more_descriptors_than_when_they_run(
    anyio_backend, at_once, monkeypatch
):
    """The control is all of them at once: there the same number of descriptors is not enough."""
    monkeypatch.setattr(conductor, "SPAWNING", at_once)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 40
    workers = ChildSpec("w", Spec(SLEEPER), count=count, depends_on=[], shutdown=0)
    held = len(os.listdir("/proc/self/fd"))
    async with Supervisor([evolve(workers, count=1)]) as sup:
        await sup.wait_ready()
        each = len(os.listdir("/proc/self/fd")) - held
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + count * each + 60, hard))
    try:
        with anyio.fail_after(60), gave_up() if at_once > count else contextlib.nullcontext():
            async with Supervisor([workers], intensity=0) as sup:
                await sup.wait_ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def gave_up():
    with pytest.raises(GaveUp) as caught:
        yield
    assert "descriptors exhausted" in str(caught.value.exceptions[0])


async def test_giving_up_shows_what_the_program_last_said(anyio_backend):
    child = ChildSpec("bad", shell("echo about to fail; echo no such file >&2; exit 3"))
    with anyio.fail_after(20), pytest.raises(GaveUp) as caught:
        async with Supervisor([child], intensity=1, period=60) as sup:
            await sup.wait()
    first = caught.value.exceptions[0]
    assert isinstance(first, ExitError) and first.exit.code == 3
    assert sorted(caught.value.history[0].lines) == [b"about to fail", b"no such file"]


async def test_a_deaf_child_is_killed_with_its_grandchildren(anyio_backend):
    text = "trap '' TERM; sleep 1000 & echo up; while :; do sleep 1000; done"
    child = ChildSpec("deaf", shell(text), readiness=Line("up"), shutdown=0.05)
    with anyio.fail_after(20):
        async with Supervisor([child]) as sup:
            await sup.wait_ready()
            await sup.stop("deaf")
            record = sup["deaf"].records[-1]
            assert record.exit.reason is Reason.KILLED and record.asked


async def test_a_stop_signal_lets_the_program_end_by_itself(anyio_backend):
    text = "trap 'echo bye; exit 0' INT; echo up; while :; do sleep 0.01; done"
    child = ChildSpec("polite", shell(text), readiness=Line("^up$"), stop_signal="SIGINT")
    with anyio.fail_after(20):
        async with Supervisor([child]) as sup:
            await sup.wait_ready()
            await sup.stop("polite")
            record = sup["polite"].records[-1]
            assert record.exit.ok and record.lines[-1] == b"bye"


async def test_a_command_inside_tells_that_it_is_ready(anyio_backend):
    child = ChildSpec(
        "probe",
        shell("sleep 0.3; touch /tmp/up; sleep 1000"),
        readiness=Command(["test", "-e", "/tmp/up"], every=0.01),
    )
    with anyio.fail_after(20):
        async with Supervisor([child]) as sup:
            await sup.wait_ready()
            assert sup["probe"].ready - sup["probe"].started >= 0.05


async def test_a_task_is_done_before_those_behind_it_start(anyio_backend):
    children = [
        ChildSpec("migrate", shell("exit 0"), restart="transient", readiness=Completed()),
        ChildSpec("web", Spec(SLEEPER), depends_on=["migrate"]),
    ]
    with anyio.fail_after(20):
        async with Supervisor(children) as sup:
            await sup.wait_ready()
            assert sup["migrate"].state == "done" and sup["web"].state == "ready"


SAYS_READY = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=warming up\\nMAINPID=%d" % os.getpid())
s.send(b"READY=1")
r, w = os.pipe()
socket.send_fds(s, [b"BARRIER=1"], [w])
os.close(w)
assert os.read(r, 1) == b"", "the barrier is answered by closing it"
print("barrier passed", flush=True)
beats = int(os.environ.get("BEATS", "-1"))
while beats:
    s.send(b"WATCHDOG=1")
    beats -= 1
    time.sleep(int(os.environ.get("WATCHDOG_USEC", "1000000")) / 4e6)
time.sleep(1000)
"""


async def test_a_child_says_that_it_is_ready_on_its_notify_socket(anyio_backend):
    child = ChildSpec("talks", Spec(["python3", "-c", SAYS_READY], env=None), readiness=Notify())
    with anyio.fail_after(20):
        async with Supervisor([child], intensity=0) as sup:
            with sup.output("talks") as lines:
                await sup.wait_ready()
                assert sup["talks"].status == "warming up"
                assert (await lines.__anext__()).line == b"barrier passed"


async def test_a_child_whose_watchdog_falls_silent_is_restarted(anyio_backend):
    spec = Spec(["python3", "-c", SAYS_READY], env={"BEATS": "4", "PATH": "/usr/bin"})
    child = ChildSpec("dog", spec, readiness=Notify(), liveness=Notify(watchdog=0.4), shutdown=0)
    with anyio.fail_after(30):
        async with Supervisor([child], intensity=None) as sup:
            reader = sup.events()
            async for event in reader:
                if isinstance(event, events.ChildUnhealthy):
                    assert event.why == "no WATCHDOG=1 within 0.4 s"
                if isinstance(event, events.ChildEnded):
                    assert not event.record.clean
                    break
            await sup.wait_ready()
            assert sup["dog"].life == 2


async def test_children_that_print_much_get_through(anyio_backend):
    child = ChildSpec(
        "loud", shell("head -c 3000000 /dev/zero | tr '\\0' 'x'; echo; echo end"), restart="temporary"
    )
    with anyio.fail_after(20):
        async with Supervisor([child]) as sup:
            async for event in sup.events():
                if isinstance(event, events.ChildEnded):
                    assert event.record.exit.ok and event.record.lines[-1] == b"end"
                    break


async def test_probes_from_outside_are_refused_where_they_cannot_reach():
    from creche.errors import SpecError
    from creche.supervisor.probes import Connect

    with pytest.raises(SpecError, match="Command"):
        ChildSpec("web", Spec(SLEEPER), readiness=Connect(8000))
    ChildSpec("web", Spec(SLEEPER, namespaces=Namespaces(network=False)), readiness=Connect(8000))

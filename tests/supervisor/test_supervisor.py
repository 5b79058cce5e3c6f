"""The supervisor on every loop, with containers that pretend: starting, falling, stopping, giving up."""

from __future__ import annotations

import gc
import signal

import anyio
import pytest
from supervisor.fakes import AT_ONCE, World, settle

from creche.errors import CrecheError, ExitError, SpawnError, SpecError
from creche.results import Reason
from creche.supervisor import events
from creche.supervisor.childspec import ChildSpec, Hooks
from creche.supervisor.conductor import GaveUp
from creche.supervisor.restarts import Backoff
from creche.supervisor.supervisor import Supervisor


@pytest.fixture
def world():
    return World()


def forever(*children, **options):
    return Supervisor(children, intensity=None, **options)


async def test_children_start_in_order_and_stop_in_reverse(world):
    async with forever(*(world.child(name) for name in "abc")) as sup:
        await sup.wait_ready()
        assert world.log == ["+a", "+b", "+c"]
        world.clear()
    assert world.log == ["-c", "~c", "-b", "~b", "-a", "~a"]


async def test_entering_does_not_wait_for_the_children(world):
    async with forever(world.child("a", box={"slow": 3600})) as sup:
        assert sup["a"].wanted == "up"


async def test_a_child_that_fell_is_started_again(world):
    async with forever(world.child("a")) as sup:
        await sup.wait_ready()
        world.boxes["a"].end(1)
        await settle()
        await sup.wait_ready()
        view = sup["a"]
        assert (view.life, view.restarts, view.state) == (2, 1, "ready")
        assert view.records[0].exit.code == 1 and not view.records[0].clean and not view.records[0].asked


async def test_a_failed_spawn_counts_as_a_restart_and_its_reason_is_kept(world):
    error = SpawnError("no memory", errno=12)
    with pytest.raises(GaveUp) as caught:
        async with Supervisor([world.child("a", box={"spawn_error": error})], intensity=2, period=60) as sup:
            await sup.wait()
    assert [*caught.value.exceptions] == [error] * 3
    assert caught.value.child == "a" and len(caught.value.history) == 3
    assert world.log == []


async def test_giving_up_cancels_the_block_stops_the_others_and_tells_why(world):
    told = []
    with pytest.raises(GaveUp, match="supervisor gave up on b") as caught:
        async with Supervisor([world.child("a"), world.child("b")], intensity=1, period=60) as sup:
            reader = sup.events()
            await sup.wait_ready()
            world.boxes["b"].end(3)
            await settle()
            await sup.wait_ready()
            world.boxes["b"].end(4)
            await anyio.sleep(3600)
    async for event in reader:
        told.append(type(event))
    assert isinstance(caught.value, CrecheError)
    assert [error.exit.code for error in caught.value.exceptions] == [3, 4]
    assert all(isinstance(error, ExitError) for error in caught.value.exceptions)
    assert events.SupervisorGaveUp in told
    assert world.log[-2:] == ["-a", "~a"]


async def test_an_exception_of_the_block_goes_its_way_unwrapped_after_everything_was_stopped(world):
    with pytest.raises(KeyError, match="mine"):
        async with forever(world.child("a")) as sup:
            await sup.wait_ready()
            raise KeyError("mine")
    assert world.log == ["+a", "-a", "~a"]


async def test_a_cancellation_waits_until_everything_was_stopped(world):
    with anyio.CancelScope() as scope:
        async with forever(world.child("a", box={"deaf": True}, shutdown=0.01)) as sup:
            await sup.wait_ready()
            scope.cancel()
            await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert world.log == ["+a", "-a", "!a", "~a"]


async def test_a_child_that_ignores_its_stop_signal_is_killed_after_its_grace(world):
    async with forever(world.child("a", box={"deaf": True}, shutdown=0.01)) as sup:
        await sup.wait_ready()
        with sup.events() as told:
            await sup.stop("a")
            assert world.log == ["+a", "-a", "!a", "~a"]
            assert sup["a"].state == "down" and sup["a"].wanted == "down"
            assert sup["a"].records[-1].exit.reason is Reason.KILLED and sup["a"].records[-1].asked
            kinds = [type(await told.__anext__()) for _ in range(3)]
            assert kinds == [events.ChildStopping, events.ChildKilled, events.ChildEnded]


async def test_a_shutdown_of_nought_kills_at_once(world):
    async with forever(world.child("a", shutdown=0)) as sup:
        await sup.wait_ready()
    assert world.log == ["+a", "!a", "~a"]


async def test_the_stop_signal_and_the_stop_command_are_the_specs(world):
    children = [
        world.child("a", stop_signal="SIGINT"),
        world.child("b", box={"deaf": True}, stop_command=["./stop", "now"], shutdown=0.01),
    ]
    async with forever(*children) as sup:
        await sup.wait_ready()
        box = world.boxes["b"]
    assert box.commands == [("./stop", "now")]
    assert world.log[2:] == ["!b", "~b", "SIGINT a", "~a"]


async def test_a_stop_during_the_spawn_calls_the_spawn_off(world):
    async with forever(world.child("a", box={"slow": 3600})) as sup:
        await settle()
        assert sup["a"].state == "starting"
        await sup.stop("a")
        assert sup["a"].records[-1].asked and sup["a"].records[-1].error is None
    assert world.log == []


async def test_a_start_that_takes_too_long_is_a_failed_one(world):
    with pytest.raises(GaveUp) as caught:
        child = world.child("a", box={"slow": 3600}, start_timeout=0.01)
        async with Supervisor([child], intensity=0) as sup:
            await sup.wait()
    assert "could not be made within 0.01 s" in str(caught.value.exceptions[0])


async def test_a_stopped_child_stays_down_until_it_is_started(world):
    async with forever(world.child("a"), world.child("b")) as sup:
        await sup.wait_ready()
        await sup.stop("a")
        world.boxes["b"].end(1)
        await settle()
        await sup.wait_ready()
        assert sup["a"].state == "down"
        sup.start("a")
        await sup.wait_ready()
        assert sup["a"].state == "ready"


async def test_restarting_on_request_does_not_count(world):
    async with Supervisor([world.child("a")], intensity=0) as sup:
        await sup.wait_ready()
        for _ in range(3):
            sup.restart("a")
            await sup.wait_ready()
        assert sup["a"].life == 4


async def test_a_child_asked_to_restart_while_it_stops_comes_back(world):
    async with forever(world.child("a", box={"deaf": True}, shutdown=0.05)) as sup:
        await sup.wait_ready()
        sup.restart("a")
        await settle()
        sup.restart("a")
        await sup.wait_ready()
        assert sup["a"].life == 2


async def test_children_are_added_and_removed_at_run_time(world):
    async with forever(world.child("a")) as sup:
        sup.add(world.child("b"))
        await sup.wait_ready()
        assert list(sup.children) == ["a", "b"]
        await sup.remove("a")
        assert list(sup.children) == ["b"]
        with pytest.raises(KeyError):
            sup["a"]
        sup.add(world.child("a"))
        await sup.wait_ready()
        assert list(sup.children) == ["b", "a"]


async def test_what_others_depend_on_is_not_removed(world):
    async with forever(world.child("db"), world.child("web", depends_on=["db"])) as sup:
        await sup.wait_ready()
        with pytest.raises(SpecError, match="web depends on it"):
            await sup.remove("db")
        await sup.remove("web")
        await sup.remove("db")
        assert sup.children == {}


async def test_a_counted_child_is_scaled_up_and_down(world):
    async with forever(world.child("w", count=2)) as sup:
        await sup.wait_ready()
        assert list(sup.children) == ["w.1", "w.2"]
        assert sup.scale("w", 4) == ("w.1", "w.2", "w.3", "w.4")
        await sup.wait_ready()
        assert len(world.started()) == 4
        sup.scale("w", 1)
        sup.scale("w", 2)
        await settle()
        await sup.wait_ready()
        assert list(sup.children) == ["w.1", "w.2"]
        assert {view.state for view in sup.children.values()} == {"ready"}
        with pytest.raises(SpecError, match="the children are: w"):
            sup.scale("x", 1)


async def test_a_simple_supervisor_makes_children_of_its_template(world):
    template = world.child("job", restart="transient")
    async with forever(template, strategy="simple_one_for_one") as sup:
        assert [sup.add(), sup.add()] == ["job.1", "job.2"]
        await sup.wait_ready()
        world.boxes["job"].end(0)
        await settle()
        assert len(sup.children) == 1


async def test_significant_children_that_end_well_end_the_wait(world):
    child = world.child("a", restart="transient", significant=True)
    async with forever(world.child("b"), child, auto_shutdown="any_significant") as sup:
        await sup.wait_ready()
        world.boxes["a"].end(0)
        await sup.wait()
    assert world.log == ["+b", "+a", "~a", "-b", "~b"]


async def test_after_the_end_requests_are_refused_with_a_sentence(world):
    async with forever(world.child("a")) as sup:
        sup.terminate()
        await sup.wait()
        for ask in (lambda: sup.add(world.child("b")), lambda: sup.scale("a", 1)):
            with pytest.raises(CrecheError, match="is ending"):
                ask()
        await sup.stop("a")
    with pytest.raises(CrecheError, match="entered once"):
        async with sup:
            pass


def test_outside_of_its_block_it_says_so(world):
    with pytest.raises(CrecheError, match="inside its block"):
        Supervisor([world.child("a")]).terminate()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"strategy": "all"}, "supervisor.strategy"),
        ({"intensity": -1}, "intensity"),
        ({"period": float("nan")}, "supervisor.period"),
        ({"auto_shutdown": "yes"}, "supervisor.auto_shutdown"),
        ({"strategy": "simple_one_for_one"}, "children"),
    ],
)
def test_nonsense_is_refused_when_it_is_built(options, field):
    with pytest.raises(SpecError) as caught:
        Supervisor([], **options)
    assert caught.value.field == field


async def test_a_supervisor_is_a_child_like_any_other_and_escalates(world):
    """The inner one gives up; for the outer one that is a fallen child, with the inner history as its reason."""
    inner = world.child("worker")
    tree = [ChildSpec("tier", lambda: Supervisor([inner], name="tier", intensity=0), backoff=AT_ONCE)]
    with pytest.raises(GaveUp, match="top gave up on tier") as caught:
        async with Supervisor(tree, name="top", intensity=1, period=60) as sup:
            for _ in range(2):
                await sup.wait_ready()
                await settle(50)
                world.boxes["worker"].end(7)
                await settle(50)
            await sup.wait()
    assert [type(error) for error in caught.value.exceptions] == [GaveUp, GaveUp]
    (inner_error,) = caught.value.exceptions[0].exceptions
    assert inner_error.exit.code == 7
    matched, rest = caught.value.split(ExitError)
    assert rest is None and matched.child == "tier"


async def test_a_tree_stops_from_the_leaves(world):
    inner = [world.child("x"), world.child("y")]
    tree = [world.child("a"), ChildSpec("tier", lambda: Supervisor(inner, intensity=None))]
    async with forever(*tree) as sup:
        await sup.wait_ready()
        await settle(50)
        world.clear()
    assert world.log == ["-y", "~y", "-x", "~x", "-a", "~a"]


async def test_output_is_always_read_and_the_last_lines_are_kept(world):
    async with forever(world.child("a")) as sup:
        await sup.wait_ready()
        with sup.output("a") as lines:
            for number in range(500):
                world.boxes["a"].print(b"line %d\nha" % number)
                if number % 50 == 0:
                    await settle()
            await settle(1200)
            assert (await lines.__anext__()).line == b"line 0"
        assert sup["a"].lines[-1] == b"haline 499"
        world.boxes["a"].print(b"lf\nlast words")
        world.boxes["a"].end(1)
        await settle(50)
        await sup.wait_ready()
        assert sup["a"].records[0].lines[-2:] == (b"half", b"last words")
        assert len(sup["a"].records[0].lines) == 50


async def test_a_reader_of_events_who_is_too_slow_loses_the_oldest_and_is_told(world):
    async with forever(world.child("a")) as sup:
        reader = sup.events(size=3)
        await sup.wait_ready()
        for _ in range(3):
            sup.restart("a")
            await sup.wait_ready()
        first = await reader.__anext__()
        assert isinstance(first, events.EventsLost) and first.count > 3
        rest = [await reader.__anext__() for _ in range(3)]
        assert isinstance(rest[-1], events.ChildReady)


async def test_readers_that_were_dropped_cost_nothing(world):
    async with forever(world.child("a")) as sup:
        await sup.wait_ready()
        for _ in range(10):
            sup.events(), sup.output("a")
            with sup.output() as lines, sup.events() as told:
                pass
        del lines, told
        gc.collect()
        assert len(sup._conductor.readers) == len(sup._conductor.bus.readers) == 0


async def test_lines_of_copies_that_come_later_are_heard_too(world):
    async with forever(world.child("w", count=1), world.child("x")) as sup:
        await sup.wait_ready()
        with sup.output("w") as lines:
            sup.scale("w", 2)
            await sup.wait_ready()
            world.boxes["x"].print(b"not asked for\n")
            world.boxes["w"].print(b"hello\n")
            with anyio.fail_after(5):
                assert (await lines.__anext__()).child == "w.2"


async def test_hooks_run_around_a_life(world):
    seen = []

    def hook(name):
        async def note(child):
            seen.append((name, child.name))

        return note

    hooks = Hooks(spawn=hook("spawn"), ready=hook("ready"), stop=hook("stop"), exit=hook("exit"))
    async with forever(world.child("a", hooks=hooks)) as sup:
        await sup.wait_ready()
    assert seen == [("spawn", "a"), ("ready", "a"), ("stop", "a"), ("exit", "a")]


@pytest.mark.parametrize("name", ["spawn", "ready"])
async def test_a_hook_that_fails_before_the_child_is_ready_fails_the_start(world, name):
    async def fail(child):
        raise RuntimeError("no")

    with pytest.raises(GaveUp) as caught:
        async with Supervisor([world.child("a", hooks=Hooks(**{name: fail}))], intensity=0) as sup:
            await sup.wait()
    assert caught.group_contains(RuntimeError, match="no")


async def test_a_hook_that_fails_later_is_told(world):
    async def fail(child):
        raise RuntimeError("no")

    async with forever(world.child("a", hooks=Hooks(stop=fail, exit=fail))) as sup:
        reader = sup.events()
        await sup.wait_ready()
    failed = [event.hook async for event in reader if isinstance(event, events.HookFailed)]
    assert failed == ["stop", "exit"]


async def test_signals_stop_everything_and_the_wait_returns(world):
    async with forever(world.child("a"), signals=[signal.SIGUSR1]) as sup:
        await sup.wait_ready()
        signal.raise_signal(signal.SIGUSR1)
        await sup.wait()
    assert world.log == ["+a", "-a", "~a"]


@pytest.mark.parametrize("state", ["starting", "ready", "waiting", "stopping", "empty"])
async def test_a_sigterm_stops_it_from_every_state(world, state):
    box = {"starting": {"slow": 3600}, "stopping": {"deaf": True}}.get(state, {})
    child = world.child("a", box=box, shutdown=0.3, backoff=Backoff(first=3600))
    children = [] if state == "empty" else [child]
    async with forever(*children, signals=[signal.SIGTERM]) as sup:
        if state not in ("starting", "empty"):
            await sup.wait_ready()
        await settle()
        if state == "waiting":
            for _ in range(2):
                world.boxes["a"].end(1)
                await settle()
            assert sup["a"].state == "waiting"
        if state == "stopping":
            sup.restart("a")
            await settle()
        if state != "empty":
            assert sup["a"].state == state
        signal.raise_signal(signal.SIGTERM)
        await sup.wait()
    assert not [name for name in world.started() if f"~{name}" not in world.log]


async def test_a_kill_spares_the_grace(world):
    async with forever(world.child("a", box={"deaf": True}, shutdown=3600)) as sup:
        await sup.wait_ready()
        sup.terminate()
        await settle()
        sup.kill()
    assert world.log == ["+a", "-a", "!a", "~a"]

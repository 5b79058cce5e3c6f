"""The child is made while its Plan is compiled: what becomes of it where that goes wrong, or wants another child."""

from __future__ import annotations

import gc

import anyio
import pytest
from loop.helpers import BOUND

from creche import Container, CrecheError, IdMap, Namespaces, Spec
from creche.machine import probe
from creche.plan.compile import compile as compile_
from creche.plan.compile import likely
from creche.spawn import Job
from needs import needs

pytestmark = needs("userns")  # the fixture of all tests finds a child that is left, and its descriptors


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Those that are begun from here on."""
    begun: list[Job] = []
    init = Job.__init__

    def recording(job: Job, *args, **options) -> None:
        init(job, *args, **options)
        begun.append(job)

    monkeypatch.setattr(Job, "__init__", recording)
    return begun


async def works(spec: Spec) -> None:
    async with Container(spec) as box:
        assert (await box.wait()).ok


async def test_it_is_begun_before_the_plan(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    begun_before = []

    def compiling(*args):
        begun_before.append(len(jobs))
        return compile_(*args)

    monkeypatch.setattr("creche.starting.compile", compiling)
    spec = Spec(["true"], namespaces=Namespaces(uts=False))
    for _ in range(3):
        await works(spec)
    assert begun_before[1:] == [2, 3] and len(jobs) == 3, "of a kind that was there before"


@pytest.mark.parametrize("wrong", [CrecheError("no"), KeyboardInterrupt()], ids=["refused", "interrupted"])
async def test_a_plan_that_never_comes(wrong: BaseException, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    await works(Spec(["true"]))

    def compiling(*args):
        raise wrong

    with monkeypatch.context() as patch, pytest.raises(type(wrong)):
        patch.setattr("creche.starting.compile", compiling)
        await works(Spec(["true"]))
    assert len(jobs) == 2, "none was begun for it"
    await works(Spec(["true"]))


async def test_a_plan_whose_handing_over_fails(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    await works(Spec(["true"]))
    with monkeypatch.context() as patch, pytest.raises(CrecheError, match="not now"):
        patch.setattr(Job, "_plan", lambda *_: (_ for _ in ()).throw(CrecheError("not now")))
        await works(Spec(["true"]))
    assert len(jobs) == 2
    await works(Spec(["true"]))


async def test_a_cancelled_start_hands_nothing_over(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    await works(Spec(["true"]))
    with anyio.CancelScope() as scope:

        def compiling(*args):
            scope.cancel()
            return compile_(*args)

        monkeypatch.setattr("creche.starting.compile", compiling)
        await works(Spec(["true"]))
        raise AssertionError("it was cancelled")
    assert scope.cancelled_caught and len(jobs) == 2 and jobs[1].plan is not None


async def test_a_child_that_does_not_fit_is_let_go_of(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is guessed, the Plan decides."""
    other = []
    monkeypatch.setattr("creche.plan.compile._kinds", ())
    await works(Spec(["true"], namespaces=Namespaces(uts=False, network=False)))
    other.append(jobs[-1].plan)
    monkeypatch.setattr("creche.starting.likely", lambda *_: other[0])
    spec = Spec(["readlink", "/proc/self/ns/uts", "/proc/self/ns/net"])
    async with Container(spec) as box:
        assert (await box.wait()).ok
    assert len(jobs) == 3 and jobs[1].plan is other[0] and jobs[2].plan.new != other[0].new


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_one_that_nobody_has_is_let_go_of() -> None:
    """As where a KeyboardInterrupt comes at its birth: more of them than there are threads to wait for their Plans."""
    await works(Spec(["true"]))
    spec = Spec(["true"])
    for _ in range(5):
        plan = likely(spec, probe())
        assert plan is not None
        Job(plan)
    gc.collect()
    with anyio.fail_after(BOUND):
        await works(spec)


@needs("root")
async def test_a_clock_of_its_own_wants_another_child(jobs: list[Job]) -> None:
    """Its offsets are written before the exec, for which root's other inits do not wait."""
    clocks = Namespaces(time=True)
    await works(Spec(["true"], namespaces=clocks))
    async with Container(Spec(["cat", "/proc/uptime"], namespaces=clocks, time_offsets={"boottime": 1e9})) as box:
        assert box.stdout is not None
        assert float((await box.stdout.receive()).split()[0]) >= 1e9
    assert len(jobs) == 3


@needs("root")
async def test_maps_of_ones_own_are_no_guess(jobs: list[Job]) -> None:
    await works(Spec(["true"]))
    await works(Spec(["true"], uid_map=(IdMap(0, 0, 1),), gid_map=(IdMap(0, 0, 1),)))
    await works(Spec(["true"]))
    assert len(jobs) == 3

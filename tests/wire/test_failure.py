"""Failure records to errors: what no test can bring about by itself, and what every error must hold."""

from __future__ import annotations

import errno as e
from pathlib import Path

import pytest
from plan.examples import EXAMPLES, plan

from creche import Security, SpawnError, Spec, UnsupportedError
from creche.machine import Machine
from creche.plan import steps as st
from creche.plan.compile import Context, compile
from creche.wire.control import Failure
from creche.wire.failure import (
    CHILD,
    CLONE_FAILED,
    COMMAND,
    INIT,
    JOIN,
    LOG,
    PARENT,
    SETUP,
    TOOL,
    error_of,
    step_of,
)
from needs import needs

pytestmark = needs("native")
SPEC, MACHINE = EXAMPLES["directory-and-mounts"]
PLAN = plan(SPEC, MACHINE)


def why(what: str, errno: int) -> tuple[str, str]:
    return f"because of {what} ({e.errorcode.get(errno, errno)})", "do this"


def error(phase: int, index: int, errno: int, detail: int = 0, text: bytes = b"", spec: Spec = SPEC) -> SpawnError | UnsupportedError:
    return error_of(Failure(phase, index, 0, detail, errno, text), spec, PLAN if spec is SPEC else plan(spec, MACHINE), (PLAN if spec is SPEC else plan(spec, MACHINE)).command, why)


@pytest.mark.parametrize("errno", [e.EMFILE, e.ENFILE])
def test_a_step_of_the_parents_that_found_no_descriptor(errno: int) -> None:
    """A map, say: it was not the map that was refused."""
    index = next(index for index, step in enumerate(PLAN.parent) if isinstance(step, st.Map))
    caught = error(PARENT, index, errno)
    assert isinstance(caught, SpawnError) and caught.field is None
    assert "descriptors exhausted" in str(caught) and "ulimit -n" in str(caught) and "mapped" not in str(caught)


@pytest.mark.parametrize(
    ("errno", "says"),
    [
        (e.EAGAIN, ("too many processes", "ulimit -u", "TasksMax=")),
        (e.ENOMEM, ("no memory", "free memory")),
        (e.EMFILE, ("descriptors exhausted", "ulimit -n")),
        (e.ENFILE, ("descriptors exhausted",)),
        (e.EPERM, ("namespaces.user", "because of clone3", "do this")),
        (e.ENOSPC, ("namespaces.user", "because of clone3", "do this")),
        (e.ENOSYS, ("namespaces.user", "because of clone3", "do this")),
    ],
)
def test_a_clone_that_failed(errno: int, says: tuple[str, ...]) -> None:
    caught = error(CHILD, 0, errno, CLONE_FAILED)
    assert isinstance(caught, SpawnError) and caught.errno == errno and caught.step == "clone3"
    for words in says:
        assert words in str(caught)


@pytest.mark.parametrize(
    ("phase", "errno", "detail", "text", "says"),
    [
        (CHILD, e.EACCES, INIT, b"", ("the init could not be executed", "vm.memfd_noexec")),
        (COMMAND, e.EAGAIN, CLONE_FAILED, b"", ("the init could not start it", "pids")),
        (COMMAND, e.ECHILD, 0, b"", ("killed before it was executed", "memory limit")),
        (CHILD, e.ECANCELED, 0, b"", ("cancelled",)),
        (PARENT, e.E2BIG, 0, b"", ("could not be started", "E2BIG", "250")),
        (CHILD, e.EIO, 0, b"", ("could not be started", "EIO")),
    ],
)
def test_a_failure_of_no_step(phase: int, errno: int, detail: int, text: bytes, says: tuple[str, ...]) -> None:
    caught = error(phase, 9999, errno, detail, text)
    assert caught.errno == errno if isinstance(caught, SpawnError) else True
    for words in says:
        assert words in str(caught)


def test_a_namespace_that_could_not_be_joined_is_named() -> None:
    spec = EXAMPLES["joined-without-init"][0]
    compiled = plan(*EXAMPLES["joined-without-init"])
    for index, name in enumerate(("user", "network", "uts")):
        caught = error_of(Failure(CHILD, 0, 0, JOIN, e.EPERM, str(index).encode()), spec, compiled, (), why)
        assert isinstance(caught, SpawnError) and caught.field == f"namespaces.{name}"


@pytest.mark.parametrize("errno", [e.EPERM, e.EINVAL, e.ENOENT, e.EACCES, e.ENOMEM, e.ENOSPC, e.ELOOP, e.EROFS, e.ENOTDIR, e.EBUSY, e.ESTALE, e.ENODEV, e.EIO, 9999])
@pytest.mark.parametrize("part", ["parent", "setup", "command"])
def test_every_step_with_every_errno_is_a_sentence(part: str, errno: int) -> None:
    """Never another exception, always the kernel's answer, the field that the Step blames, and one line."""
    phase = {"parent": PARENT, "setup": SETUP, "command": COMMAND}[part]
    for name in EXAMPLES:
        spec = EXAMPLES[name][0]
        compiled = plan(*EXAMPLES[name])
        for index, step in enumerate(getattr(compiled, part)):
            for detail, text in ((0, b""), (LOG, b"overlay: \xff said no"), (TOOL, b"newuidmap: no")):
                caught = error_of(Failure(phase, index, 0, detail, errno, text), spec, compiled, compiled.command, why)
                assert isinstance(caught, SpawnError)
                assert caught.errno == errno and caught.step == step.name and caught.field == (step.blame or None)
                assert "\n" not in str(caught)
                assert detail == TOOL or e.errorcode.get(errno, str(errno)) in str(caught)


def test_an_index_beyond_the_plan_is_no_step() -> None:
    assert step_of(Failure(SETUP, 10_000, 0, 0, e.EIO, b""), PLAN, ()) is None
    assert isinstance(step_of(Failure(SETUP, 0, 0, 0, e.EIO, b""), PLAN, ()), st.Step)


def test_the_file_systems_own_log_is_in_the_text() -> None:
    index = next(i for i, step in enumerate(PLAN.setup) if isinstance(step, st.FsMount))
    assert "'tmpfs: Bad value for size'" in str(error(SETUP, index, e.EINVAL, LOG, b"tmpfs: Bad value for size"))


def test_keys_that_are_used_up_are_told_with_a_remedy() -> None:
    """What a user has of them is met only by who has a session keyring already (keyrings(7)), so no test uses them up."""
    spec = Spec(["true"], security=Security(seccomp=None))
    compiled = compile(spec, Machine.example(), Context())
    index = next(i for i, step in enumerate(compiled.setup) if isinstance(step, st.Keyrings))
    caught = error_of(Failure(SETUP, index, 0, 0, e.EDQUOT, b""), spec, compiled, compiled.command, why)
    assert isinstance(caught, SpawnError) and caught.field == "security.seccomp"
    assert "a session keyring" in str(caught) and "kernel.keys.maxkeys" in str(caught)
    assert str(caught) in (Path(__file__).parents[2] / "docs/errors.md").read_text()

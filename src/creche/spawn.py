"""Hands a Plan to the native module's threads, and undoes the start when it fails or is cancelled; knows no loop."""

from __future__ import annotations

import contextlib
import errno as e
import fcntl
import os
import signal as _signal
import socket
from typing import TYPE_CHECKING

from ._native import ffi, lib
from .errors import CrecheError, SpawnError, SpecError
from .plan.compile import CLONE, Plan
from .wire.control import RUN_BRIEF, RUN_LISTENER, RUN_MAIN, RUN_PTY, Failure, failure_of
from .wire.encode import encode, encode_command, encode_setup
from .wire.failure import CLONE_FAILED

if TYPE_CHECKING:
    from .cgroups.group import Group

__all__ = ["SHORT", "Job", "exhausted", "reap", "strike"]

PARENT, SETUP, COMMAND, VIEW = 0, 2, 3, 4
SPAWN_INIT, SPAWN_COPY, SPAWN_AMBIENT, SPAWN_AT_ONCE = 1, 2, 4, 8
CLONING, RUNNING, DEAD = 1, 3, 4
NS_GET_NSTYPE = 0xB703  # ioctl_nsfs(2)


def open_joins(plan: Plan) -> list[int]:
    """The namespaces to join, opened and their kinds checked before the first is entered; the user namespace first."""
    fds: list[int] = []
    try:
        for name, value in plan.joins:
            field = f"namespaces.{name}"
            try:
                fd = os.open(value, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if isinstance(value, str) else fcntl.fcntl(value, fcntl.F_DUPFD_CLOEXEC, 3)
            except OSError as error:
                raise SpawnError(
                    f"{field}: {value!r} can't be opened: {error.strerror} ({e.errorcode.get(error.errno or 0, '?')})", field=field, step="open", errno=error.errno,
                    hint="give /proc/PID/ns/… of a process that lives, or a descriptor of a namespace that is open",
                ) from None  # fmt: skip
            fds.append(fd)
            try:
                kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
            except OSError:
                raise SpecError(field, value, "this is no namespace: give /proc/PID/ns/… or a descriptor of one") from None
            if kind != CLONE[name]:
                actual = next((other for other, flag in CLONE.items() if flag == kind), "other")
                raise SpecError(field, value, f"this is a namespace of the kind {actual!r}")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def clone_of(plan: Plan) -> tuple[int, int]:
    """How its child is made (SPAWN_…), and with which new namespaces."""
    flags = (SPAWN_INIT if plan.init else 0) | (SPAWN_AMBIENT if plan.ambient else 0) | (SPAWN_AT_ONCE if plan.at_once else 0)
    return flags | (SPAWN_COPY if plan.joins or not plan.init else 0), plan.flags


class Job:
    """One spawn under way: the child is made at once, beside us, and waits for its Plan. Its control socket (`socket`) tells the loop all there is to tell."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is what `go` hands over, or another with the same clone (`fits`). Raises SpawnError, and SpecError for namespaces to join."""
        self.plan = plan
        self._clone = clone_of(plan)
        joins = open_joins(plan)
        control, error = ffi.new("int *"), ffi.new("int *")
        try:
            job = lib.creche_job_new(*self._clone, joins, len(joins), control, error)
            if job == ffi.NULL:
                raise exhausted(-error[0])
            self._job = ffi.gc(job, lib.creche_job_free)  # a KeyboardInterrupt may come before anybody has us
        finally:
            for fd in joins:
                os.close(fd)
        self.socket = socket.socket(fileno=control[0])
        try:
            self._check(lib.creche_job_submit(self._job))
        except BaseException:
            self.free()
            self.socket.close()
            raise

    def fits(self, plan: Plan) -> bool:
        """Whether `plan` wants the child that is being made."""
        return not plan.joins and clone_of(plan) == self._clone

    def go(self, plan: Plan, *, setup_fds: list[int], parent_fds: list[int], command_fds: list[int], tty: tuple[int, int] | None, brief: bool = False) -> None:
        """Hand the child its Plan. Raises SpawnError: then it is to be cancelled, or let go of."""
        self.plan = plan
        self._plan(PARENT, encode(plan.parent), parent_fds)
        self._plan(SETUP, encode_setup(plan.setup), setup_fds)
        if plan.view is not None and lib.creche_job_view(self._job, plan.view.number) < 0:
            parent, setup = encode(plan.view.parent), encode(plan.view.setup)
            self._check(lib.creche_view_new(plan.view.number, parent, len(parent), setup, len(setup)))
            self._check(lib.creche_job_view(self._job, plan.view.number))
        if plan.command:
            self._plan(COMMAND, encode_command(plan.command), command_fds)
            rows, columns = tty or (0, 0)
            lib.creche_job_run(self._job, RUN_MAIN | (RUN_PTY if tty else 0) | (RUN_BRIEF if brief else 0) | (RUN_LISTENER if plan.listens else 0), rows, columns)
        lib.creche_job_go(self._job)

    def _plan(self, phase: int, blob: bytes, fds: list[int]) -> None:
        self._check(lib.creche_job_plan(self._job, phase, blob, len(blob), fds, len(fds)))

    def _check(self, result: int) -> None:
        if result < 0:
            raise exhausted(-result)

    @property
    def state(self) -> int:
        return int(lib.creche_job_state(self._job))

    @property
    def failure(self) -> Failure | None:
        """Why the spawn failed, where it did and no message of the init's says it."""
        if self.state < RUNNING:
            return None
        record = ffi.new("struct creche_failure *")
        return failure_of(bytes(ffi.buffer(record))) if lib.creche_job_failure(self._job, record) else None

    @property
    def unshared(self) -> bool:
        """Whether nothing was begun, since what it would have shared could not be made, or user namespaces are too scarce for both."""
        failure = self.failure
        return failure is not None and self.plan.view is not None and (bool(failure.phase & VIEW) or failure.errno == e.ENOSPC)

    @property
    def one_too_many(self) -> bool:
        """Whether clone3 said that a namespace would be one too many for a limit of user.max_*_namespaces (clone(2): ENOSPC)."""
        failure = self.failure
        return failure is not None and failure.detail == CLONE_FAILED and failure.errno == e.ENOSPC

    @property
    def executing(self) -> bool:
        """Whether a child without an init came to its exec, so that the end of the socket is that."""
        return bool(lib.creche_job_executing(self._job))

    def take(self) -> tuple[int, int]:
        """The child's pid and pidfd; the pidfd is the caller's to close and the child the caller's to reap."""
        return int(lib.creche_job_pid(self._job)), int(lib.creche_job_take(self._job))

    def cancel(self) -> None:
        """Ask for the end of a spawn under way; its socket's end tells when that has come."""
        lib.creche_job_cancel(self._job)

    def free(self) -> None:
        """Let go of it. A child that nobody took is killed and reaped."""
        if self._job is not None:
            ffi.release(self._job)
            self._job = None


_EXHAUSTED = {
    e.EMFILE: ("descriptors exhausted", "raise RLIMIT_NOFILE (ulimit -n), or close some"),
    e.ENFILE: ("descriptors exhausted on the whole machine", "raise the sysctl fs.file-max"),
    e.EAGAIN: ("too many processes", "raise RLIMIT_NPROC (ulimit -u) or the pids.max of the service (systemd: TasksMax=), or free memory"),
    e.ENOMEM: ("no memory", "free memory, or raise the memory limit of this service"),
    e.ETOOMANYREFS: ("too many descriptors on their way", "end the container that floods them, or keep guests below your own limit (rlimits nofile)"),
    e.EACCES: ("the init could not be made", "vm.memfd_noexec=2 forbids to execute from memory: sysctl vm.memfd_noexec=1"),
}


SHORT = frozenset((12, 23, 24))  #: ENOMEM, ENFILE, EMFILE: another try may do


def exhausted(errno: int) -> SpawnError:
    """The error for what the kernel refuses for want of descriptors, processes or memory.

    EPERM comes from a filter over clone3: glibc makes our thread with it too, and falls back only on ENOSYS.
    """
    if errno == e.EPERM:
        from .diagnose import why_no_namespaces

        refusal = why_no_namespaces(errno)
        return SpawnError(f"the spawn could not be begun: {refusal.sentence}", step="clone3", errno=errno, hint=refusal.hint)
    what, hint = _EXHAUSTED.get(errno, ("the spawn could not be begun", None))
    return SpawnError(f"{what}: {os.strerror(errno)} ({e.errorcode.get(errno, errno)})", step="spawn", errno=errno, hint=hint)


def reap(pidfd: int) -> tuple[int, tuple[int, ...]] | None:
    """The status and usage (user µs, system µs, KiB, blocks read, written) of a process that is dead, or None.

    Raises ChildProcessError where somebody else's waitpid(-1) took it.
    """
    status = ffi.new("int *")
    usage = ffi.new("uint64_t[5]")
    result = lib.creche_reap(pidfd, status, usage)
    if result < 0:
        raise ChildProcessError(-result, os.strerror(-result))
    return (int(status[0]), tuple(int(item) for item in usage)) if result else None


def strike(pidfd: int, group: Group | None) -> None:
    """SIGKILL for a container's first process, and so for all in it."""
    with contextlib.suppress(ProcessLookupError):
        _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
    with contextlib.suppress(CrecheError):
        if group is not None and group.frozen:
            group.thaw()  # in version 1 what is frozen dies only then: freezer-subsystem.rst

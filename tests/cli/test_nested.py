"""Containers started where containers are half forbidden: they start, or the one sentence names what is in the way."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import machine_surroundings as around
import pytest

from needs import needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

RUN = (sys.executable, "-m", "creche.cli", "run")
ALONE = ("unshare", "--user", "--map-root-user", "--mount")


def start(
    *before: str, options: tuple[str, ...] = (), answers: dict[str, int] | None = None
) -> tuple[int, str]:
    """Status and words of a `creche run … echo started`, started as `*before creche run …`."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": around.SOURCE}
    apply = (lambda: around.install(around.filter_for(answers))) if answers else None
    run = subprocess.run(
        [*before, *RUN, *options, "echo", "started"],
        capture_output=True, text=True, env=environment, preexec_fn=apply, check=False, timeout=60,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def test_root_of_a_namespace_with_one_id() -> None:
    """It has no ids to give to its containers, and needs none."""
    assert start(*ALONE) == (0, "started\n")


def test_max_user_namespaces_of_zero() -> None:
    """The sysctl and its remedy."""
    status, said = start(*ALONE, "sh", "-c", 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" "$@"')
    assert status == 125
    assert "namespaces.user: user namespaces are switched off: user.max_user_namespaces is 0 here" in said
    assert "sudo sysctl -w user.max_user_namespaces=" in said


def test_a_chroot() -> None:
    """Which no errno tells from a sysctl."""
    status, said = start(*ALONE, "bash", "-c", around.CHROOT, "bash")
    assert (status, "this process is in a chroot" in said) == (125, True), said


@pytest.mark.parametrize(("call", "answer"), [("mount", errno.EPERM), ("unshare", errno.ENOSYS)])
def test_a_filter_over_what_we_do_not_need(call: str, answer: int) -> None:
    """No start needs mount(2) or unshare(2): there are newer calls for it, and clone3 makes the namespaces."""
    assert start(answers={call: answer}) == (0, "started\n")


@pytest.mark.parametrize("answer", [errno.EPERM, errno.ENOSYS])
def test_a_filter_over_clone3(answer: int) -> None:
    """The filter is blamed, with its own errno."""
    status, said = start(answers={"clone3": answer})
    assert status == 125
    assert f"a seccomp filter around this process answers clone3 with {errno.errorcode[answer]}" in said


def test_no_new_privs_and_many_users() -> None:
    """An ordinary user can't be helped by newuidmap then; one user works."""
    assert start("setpriv", "--no-new-privs") == (0, "started\n")
    if os.geteuid() != 0:
        status, said = start("setpriv", "--no-new-privs", options=("--group-add", "7"))
        assert (status, "/etc/subuid" in said or "no_new_privs" in said) == (125, True), said


class TestInsideBubblewrap:
    """As docs/nested.md says it."""

    pytestmark = needs("bwrap")

    def test_with_a_proc_of_its_own(self) -> None:
        """Started by root it is masked, and that is said with bwrap's own way out; a user's bwrap covers nothing."""
        base = ("bwrap", "--unshare-user", "--unshare-pid", "--bind", "/", "/", "--dev", "/dev")
        status, said = start(*base, "--proc", "/proc")
        if os.geteuid() == 0:
            assert (status, "mount too revealing" in said, "bwrap" in said) == (125, True, True), said
        else:
            assert (status, said) == (0, "started\n")

    def test_the_documented_way(self) -> None:
        """With the outer proc it works."""
        base = ("bwrap", "--unshare-user", "--bind", "/", "/", "--dev", "/dev", "--bind", "/proc", "/proc")
        assert start(*base) == (0, "started\n")


class TestInsideCreche:
    """One container in another."""

    #: The interpreter, which may be that of a virtual environment, and the package under test.
    SEEN = (
        "-v",
        f"{sys.prefix}:{sys.prefix}:ro",
        "-v",
        f"{around.SOURCE}:{around.SOURCE}:ro",
        "-e",
        f"PYTHONPATH={around.SOURCE}",
    )
    OPEN = ("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")

    @pytest.fixture(autouse=True)
    def _readable(self) -> Iterator[None]:
        if os.geteuid() == 0 and not os.stat(around.SOURCE).st_mode & 0o005:
            pytest.skip("the sources can be read by their owner alone")
        yield

    def test_the_default_filter_forbids_it(self) -> None:
        """And says that it is a filter."""
        status, said = start(*RUN, *self.SEEN)
        assert (status, "a seccomp filter around this process answers clone3 with ENOSYS" in said) == (
            125,
            True,
        ), said

    def test_the_documented_way(self) -> None:
        """A user other than 0, no filter, nothing covered."""
        assert start(*RUN, "-u", "1000", *self.SEEN, *self.OPEN) == (0, "started\n")

    def test_root_without_capabilities(self) -> None:
        """User 0 must keep CAP_SETFCAP to give its id away."""
        status, said = start(*RUN, *self.SEEN, *self.OPEN)
        assert (status, "CAP_SETFCAP" in said) == (125, True), said
        assert start(*RUN, "--cap-add", "setfcap", *self.SEEN, *self.OPEN) == (0, "started\n")

    def test_the_doctor_tells_both_apart(self) -> None:
        """In a default container what forbids it, by name; in the documented one nothing that a container needs."""

        def told(*options: str) -> dict[str, dict[str, Any]]:
            inner = (sys.executable, "-m", "creche.cli", "doctor", "--json", "--quick")
            run = subprocess.run(
                [*RUN, *options, *inner], capture_output=True, text=True, check=False, timeout=60
            )
            return {finding["name"]: finding for finding in json.loads(run.stdout)["findings"]}

        closed = told(*self.SEEN)
        assert closed["outer seccomp filter"]["state"] == "no"
        assert "clone3 (ENOSYS" in closed["outer seccomp filter"]["found"]
        opened = told("-u", "1000", *self.SEEN, *self.OPEN)
        assert opened["outer seccomp filter"]["state"] == opened["user"]["state"] == "yes"
        assert "proc" in opened["file systems"]["found"]

"""The doctor in surroundings that forbid things, each built here; it must name the very thing that was put in its way."""

import errno
import os
import shutil

import machine_surroundings as around
import pytest

ALONE = ("unshare", "--user", "--map-root-user", "--mount")


def test_control_here_everything_is_found_to_work() -> None:
    """Without anything in the way nothing is reported: else the tests below would prove nothing."""
    found = around.findings()
    assert found["user"]["state"] == "yes"
    assert {
        name for name, finding in found.items() if finding["state"] == "no" and finding["needed"]
    } == set()


def test_max_user_namespaces_of_zero() -> None:
    """user.* sysctls belong to the user namespace, so one of our own can be set to 0 without touching the machine."""
    outside = os.readlink("/proc/self/ns/user")
    script = 'test "$(readlink /proc/self/ns/user)" != "$0" && echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    user = around.findings(*ALONE, "sh", "-c", script, outside)["user"]
    assert (user["state"], user["needed"]) == ("no", True)
    assert user["found"].startswith("ENOSPC")
    assert user["why"] == "user namespaces are switched off: user.max_user_namespaces is 0 here"
    assert user["fix"].startswith("sudo sysctl -w user.max_user_namespaces=")


def test_max_net_namespaces_of_zero() -> None:
    """Another kind of namespace at its limit is named by its own sysctl."""
    script = 'test "$(readlink /proc/self/ns/user)" != "$0" && echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"'
    found = around.findings(*ALONE, "sh", "-c", script, os.readlink("/proc/self/ns/user"))
    assert found["user"]["state"] == "yes"
    assert found["network"]["why"] == "user.max_net_namespaces is reached, or 0"


@pytest.mark.parametrize(
    ("answer", "word"), [(errno.EPERM, "EPERM"), (errno.ENOSYS, "ENOSYS"), (errno.EACCES, "EACCES")]
)
def test_a_filter_that_refuses_clone3(answer: int, word: str) -> None:
    """Docker's default filter says ENOSYS, older ones EPERM; either is told from the kernel's own refusal."""
    found = around.findings(answers={"clone3": answer})["outer seccomp filter"]
    assert (found["state"], found["needed"]) == ("no", True)
    assert found["found"].startswith(f"refuses clone3 ({word}")
    assert "seccomp filter" in found["why"]


def test_a_filter_that_refuses_unshare_and_mount() -> None:
    """Each refused call is listed, and the user namespace's failure is blamed on the filter, not on a sysctl."""
    found = around.findings(answers={"unshare": errno.EPERM, "mount": errno.EPERM, "clone": errno.EPERM})
    assert "clone (EPERM" in found["outer seccomp filter"]["found"]
    assert "mount (EPERM" in found["outer seccomp filter"]["found"]
    assert "seccomp filter" in found["user"]["why"]


def test_a_filter_that_refuses_only_mount() -> None:
    """Namespaces work and mounts do not: the reason is the filter, and it is said of each mount."""
    found = around.findings(answers={"mount": errno.EPERM})
    assert found["user"]["state"] == "yes"
    assert "seccomp filter around this process answers mount with EPERM" in found["private, tmpfs"]["why"]


def test_a_filter_that_kills() -> None:
    """A filter that kills ends only the child that asked; the doctor lives and says so."""
    found = around.findings(answers={"clone3": -1})["outer seccomp filter"]
    assert "clone3 (killed by SIGSYS)" in found["found"]


def test_a_filter_that_is_harmless_is_not_blamed() -> None:
    """Being under some filter is no fault by itself."""
    found = around.findings(answers={"clone3": errno.EINVAL})
    assert found["outer seccomp filter"]["state"] == "yes"


def test_a_chroot_is_named() -> None:
    """The kernel gives no user namespace to a chrooted process, whoever it is (user_namespaces(7))."""
    user = around.findings(*ALONE, "bash", "-c", around.CHROOT, "bash")["user"]
    assert user["found"].startswith("EPERM")
    assert "this process is in a chroot" in user["why"]


def test_a_chroot_onto_a_mount_point_is_found_by_elimination() -> None:
    """It can't be seen in mountinfo; what is left after sysctls, filter and ids is said as a likelihood."""
    user = around.findings(*ALONE, "bash", "-c", around.CHROOT_ON_MOUNT, "bash")["user"]
    assert user["found"].startswith("EPERM")
    assert "most likely a chroot" in user["why"]


def test_no_new_privs_is_in_the_way_of_newuidmap() -> None:
    """A setuid helper runs without its privilege then; for root, which needs no helper, it is no hindrance."""
    found = around.findings("setpriv", "--no-new-privs")
    assert "no_new_privs" in found
    if os.geteuid() == 0:
        assert found["many users in a container"]["state"] == "yes"
    else:
        assert found["many users in a container"]["state"] == "no"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
class TestInsideBubblewrap:
    """bwrap is the sandbox that people most often start us in."""

    BASE = ("bwrap", "--unshare-user", "--unshare-pid", "--bind", "/", "/", "--dev", "/dev")

    def test_its_fresh_proc_is_masked(self) -> None:
        """bwrap covers what root could write to in the proc that it mounts, so no other can be mounted in it."""
        found = around.findings(*self.BASE, "--proc", "/proc")
        if os.geteuid() != 0:
            assert "proc" not in found
            return
        proc = found["proc"]
        assert proc["found"].startswith("EPERM")
        assert "mount too revealing" in proc["why"]
        assert "bwrap" in proc["fix"]

    def test_the_documented_way_works(self) -> None:
        """Sharing the outer proc leaves nothing covered, and a fresh one can be mounted."""
        found = around.findings(
            "bwrap", "--unshare-user", "--bind", "/", "/", "--dev", "/dev", "--bind", "/proc", "/proc"
        )
        assert "proc" not in found
        assert found["user"]["state"] == "yes"

"""The decisions of diagnose as a table: what was refused, in which surroundings, and the cause that must be named."""

import errno as e

import attrs
import pytest

from creche.diagnose import Evidence, apparmor_profile, why_no_id_map, why_no_mount, why_no_userns
from creche.machine import Extent, Helper, Machine

REACHED = Evidence(clone3=e.EINVAL)
USER, ROOT = Machine.example(), Machine.example_root()


@pytest.mark.parametrize(
    ("machine", "errno", "evidence", "sentence", "hint"),
    [
        (
            {"engine": "docker"},
            e.ENOSYS,
            Evidence(clone3=e.ENOSYS),
            "clone3 with ENOSYS",
            "docker run --security-opt",
        ),
        (
            {"engine": "podman"},
            e.EPERM,
            Evidence(clone3=e.EPERM),
            "clone3 with EPERM",
            "podman run --security-opt",
        ),
        ({"engine": "kubernetes"}, e.EPERM, Evidence(clone3=e.EPERM), "seccomp", "seccompProfile"),
        ({"engine": "docker"}, e.EPERM, Evidence(clone3=e.ENOSYS), "clone3 with ENOSYS", "seccomp=unconfined"),
        ({"engine": "wsl"}, e.EPERM, Evidence(clone3=e.EPERM), "seccomp", "SystemCallFilter"),
        ({"release": "4.4.0"}, e.ENOSYS, REACHED, "4.4.0) has no clone3", "5.14"),
        (
            {"max_user_namespaces": 0},
            e.ENOSPC,
            REACHED,
            "max_user_namespaces is 0",
            "sysctl -w user.max_user_names",
        ),
        (
            {},
            e.ENOSPC,
            Evidence(zero_limits=("max_net_namespaces",)),
            "user.max_net_namespaces is 0",
            "sysctl -w",
        ),
        ({}, e.ENOSPC, REACHED, "at its limit", "end containers"),
        ({"unprivileged_userns_clone": 0}, e.EPERM, REACHED, "for root alone", "unprivileged_userns_clone=1"),
        (
            {"apparmor_restrict_userns": 1},
            e.EPERM,
            REACHED,
            "AppArmor",
            "profile creche-python3 /usr/bin/python3",
        ),
        ({"euid": 7, "uid_map": (Extent(0, 0, 1),)}, e.EPERM, REACHED, "(7:1000) has no id", "map it"),
        ({"chrooted": True}, e.EPERM, REACHED, "in a chroot", "pivot_root"),
        (
            {"apparmor_label": "docker-default (enforce)", "engine": "docker"},
            e.EPERM,
            REACHED,
            "docker-default",
            "apparm",
        ),
        ({}, e.EPERM, REACHED, "most likely a chroot", "dmesg"),
        ({}, e.EACCES, REACHED, "security module", "dmesg"),
        ({}, e.EAGAIN, REACHED, "RLIMIT_NPROC", "ulimit -u"),
        ({}, e.ENOMEM, REACHED, "no memory", "memory.max"),
        (
            {"namespaces": frozenset({"mnt"})},
            e.EINVAL,
            REACHED,
            "without user, pid, net",
            "Namespaces(user=False)",
        ),
        ({}, e.EINVAL, REACHED, "combination", "creche plan"),
        ({}, e.EIO, REACHED, "clone3 answered", "creche doctor"),
    ],
)
def test_why_no_user_namespace(machine, errno, evidence, sentence, hint) -> None:  # type: ignore[no-untyped-def]
    """One cause, one sentence, one remedy."""
    said = why_no_userns(attrs.evolve(USER, **machine), errno, evidence)
    assert sentence in said.sentence
    assert hint in said.hint


def test_root_is_not_told_about_switches_that_do_not_bind_it() -> None:
    """CAP_SYS_ADMIN is above Debian's and Ubuntu's switches, so they can't be the cause."""
    root = attrs.evolve(ROOT, unprivileged_userns_clone=0, apparmor_restrict_userns=1)
    assert "chroot" in why_no_userns(root, e.EPERM, REACHED).sentence


def test_without_a_user_namespace_root_is_needed() -> None:
    """The plain reason comes first where nobody asked for a user namespace."""
    said = why_no_userns(USER, e.EPERM, REACHED, user=False)
    assert "CAP_SYS_ADMIN" in said.sentence


@pytest.mark.parametrize(
    ("change", "sentence", "hint"),
    [
        ({"subuid": ()}, "no range of ids in /etc/subuid", "usermod --add-subuids"),
        ({"subgid": ()}, "no range of ids in /etc/subgid", "usermod"),
        ({"newuidmap": None}, "not installed", "apt install uidmap"),
        ({"newgidmap": None}, "not installed", "apt install uidmap"),
        ({"no_new_privs": True}, "no_new_privs", "NoNewPrivileges=no"),
        ({"newuidmap": Helper("/usr/bin/newuidmap", False)}, "neither setuid", "chmod u+s"),
        ({"newgidmap": Helper("/usr/bin/newgidmap", False)}, "newgidmap is neither setuid", "chmod u+s"),
        ({}, "newuidmap refused the map: uid range [0-1) not allowed", "/etc/subuid"),
    ],
)
def test_why_no_range_of_ids(change, sentence, hint) -> None:  # type: ignore[no-untyped-def]
    """Told in the order in which a person would have to fix them."""
    said = why_no_id_map(attrs.evolve(USER, **change), message="uid range [0-1) not allowed\n")
    assert sentence in said.sentence
    assert hint in said.hint


@pytest.mark.parametrize(
    ("change", "errno", "kind", "sentence", "hint"),
    [
        (
            {"proc_masks": ("/proc/kcore",), "engine": "docker"},
            e.EPERM,
            "proc",
            "too revealing",
            "systempaths=unconfined",
        ),
        (
            {"proc_masks": ("/proc/kcore",), "engine": "podman"},
            e.EPERM,
            "proc",
            "too revealing",
            "unmask=ALL",
        ),
        (
            {"proc_masks": ("/proc/kcore",), "engine": "kubernetes"},
            e.EPERM,
            "proc",
            "too revealing",
            "procMount: Unmasked",
        ),
        ({"proc_mounted": False}, e.EPERM, "proc", "no whole /proc", "mount proc"),
        ({}, e.EPERM, "sysfs", "network namespace of its own", "namespaces.network"),
        ({"apparmor_restrict_userns": 1}, e.EACCES, "tmpfs", "AppArmor", "userns,"),
        (
            {"apparmor_label": "docker-default (enforce)", "engine": "docker"},
            e.EACCES,
            "tmpfs",
            "forbids mounts",
            "apparmor=",
        ),
        ({}, e.ENODEV, "overlay", "no file system overlay", "modprobe overlay"),
        ({"seccomp": 2}, e.EPERM, "tmpfs", "most likely by the seccomp", "clone3"),
    ],
)
def test_why_no_mount(change, errno, kind, sentence, hint) -> None:  # type: ignore[no-untyped-def]
    """Masks, security modules and filters, each with the engine's own remedy."""
    said = why_no_mount(attrs.evolve(USER, **change), errno, kind, Evidence(mount=e.ENOENT))
    assert sentence in said.sentence
    assert hint in said.hint


def test_the_apparmor_profile_names_this_interpreter() -> None:
    """A path with a blank needs quotes in AppArmor's language, and the profile's name is free of slashes."""
    profile = apparmor_profile("/opt/my env/bin/python3.11")
    assert 'profile creche-python3.11 "/opt/my env/bin/python3.11" flags=(unconfined) {' in profile
    assert "userns," in profile

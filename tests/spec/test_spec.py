"""Spec itself: what its own fields take, and the rules between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from spec.refusals import refused

from creche.spec import Bind, Directory, HostView, IdMap, Namespaces, Security, Spec, Tmpfs

LARGEST = 2**64 - 1


@pytest.mark.parametrize(
    ("field", "given", "normal"),
    [
        ("command", ["a", b"\xff", Path("/b")], ("a", "\udcff", "/b")),
        ("command", ("a", ""), ("a", "")),
        ("env", {"A": "1", b"B": b"\xff", "C": Path("/c")}, {"A": "1", "B": "\udcff", "C": "/c"}),
        ("env", {}, {}),
        ("inherit_env", ["A"], ("A",)),
        ("cwd", "/a//b/", "/a/b"),
        ("cwd", "/", "/"),
        ("hostname", "box-1.example", "box-1.example"),
        ("rlimits", {"nofile": (1, 2)}, {"nofile": (1, 2)}),
        ("rlimits", {"RLIMIT_NOFILE": 5}, {"nofile": (5, 5)}),
        ("rlimits", {"core": "unlimited"}, {"core": (LARGEST, LARGEST)}),
        ("rlimits", {"core": (0, -1)}, {"core": (0, LARGEST)}),  # resource.RLIM_INFINITY
        ("rlimits", {"as": "64M", "stack": [1, "1K"]}, {"as": (64 << 20, 64 << 20), "stack": (1, 1024)}),
        ("umask", 0o077, 0o077),
        ("umask", "077", 0o077),
        ("nice", -20, -20),
        ("oom_score_adj", 1000, 1000),
        ("sysctl", {"net.ipv4.ip_forward": 1}, {"net.ipv4.ip_forward": "1"}),
        ("sysctl", {"net/ipv4/conf/eth0.100/forwarding": "0"}, {"net.ipv4.conf.eth0/100.forwarding": "0"}),
        (
            "sysctl",
            {"kernel.shmmax": "1", "fs.mqueue.msg_max": "5"},
            {"kernel.shmmax": "1", "fs.mqueue.msg_max": "5"},
        ),
        ("tty", False, None),
        ("tty", True, (24, 80)),
        ("tty", [50, 132], (50, 132)),
        ("stdin", None, "pipe"),
        ("stdin", subprocess.DEVNULL, "null"),
        ("stdout", subprocess.PIPE, "pipe"),
        ("stderr", subprocess.STDOUT, "stdout"),
        ("stdout", 1, 1),
        ("pass_fds", [5, 3], (5, 3)),
        ("name", "a.b-C_1", "a.b-C_1"),
    ],
)
def test_a_field_is_normalised(field: str, given: Any, normal: Any) -> None:
    value = getattr(Spec(**{"command": ["a"], field: given}), field)
    assert value == normal and type(value) is type(normal)


@pytest.mark.parametrize(
    ("field", "given", "at"),
    [
        ("command", "ls -l", "command"),
        ("command", b"ls", "command"),
        ("command", [], "command"),
        ("command", [""], "command[0]"),
        ("command", ["a", 1], "command[1]"),
        ("command", ["a", "b\0"], "command[1]"),
        ("command", ["a", "x" * 131_072], "command[1]"),
        ("command", {"a"}, "command"),
        ("command", iter(["a"]), "command"),
        ("env", ["A=1"], "env"),
        ("env", {"": "1"}, "env"),
        ("env", {"A=B": "1"}, "env"),
        ("env", {"A\0": "1"}, "env"),
        ("env", {1: "1"}, "env"),
        ("env", {"A": 1}, "env['A']"),
        ("env", {"A": "b\0"}, "env['A']"),
        ("env", {"A": "1", b"A": "2"}, "env"),
        ("inherit_env", "HOME", "inherit_env"),
        ("inherit_env", ["A=1"], "inherit_env[0]"),
        ("inherit_env", ["A", "A"], "inherit_env[1]"),
        ("cwd", "a", "cwd"),
        ("cwd", "/a/..", "cwd"),
        ("hostname", "", "hostname"),
        ("hostname", "x" * 65, "hostname"),
        ("hostname", "a b", "hostname"),
        ("hostname", "a\n", "hostname"),
        ("hostname", "-a", "hostname"),
        ("domainname", "é", "domainname"),
        ("namespaces", {"user": True}, "namespaces"),
        ("security", None, "security"),
        ("network", "host", "network"),
        ("rlimits", {"nofiles": 1}, "rlimits.nofiles"),
        ("rlimits", {"nofile": (2, 1)}, "rlimits.nofile"),
        ("rlimits", {"nofile": (1, 2, 3)}, "rlimits.nofile"),
        ("rlimits", {"nofile": "64M"}, "rlimits.nofile"),
        ("rlimits", {"nofile": -2}, "rlimits.nofile"),
        ("rlimits", {"nofile": 2**64}, "rlimits.nofile"),
        ("rlimits", {"nofile": 1, "RLIMIT_NOFILE": 2}, "rlimits"),
        ("rlimits", {"nofile": True}, "rlimits.nofile"),
        ("rlimits", None, "rlimits"),
        ("umask", 0o1000, "umask"),
        ("umask", -1, "umask"),
        ("nice", 20, "nice"),
        ("nice", "0", "nice"),
        ("oom_score_adj", -1001, "oom_score_adj"),
        ("sysctl", {"kernel.core_pattern": "|/x"}, "sysctl"),  # D1: the machine's, by whatever name it is called
        ("sysctl", {"vm.overcommit_memory": "1"}, "sysctl"),
        ("sysctl", {"kernel.hostname": "x"}, "sysctl"),
        ("sysctl", {"net..x": "1"}, "sysctl"),
        ("sysctl", {"net./../kernel.core_pattern": "1"}, "sysctl"),
        ("sysctl", {"net.//.//.kernel.core_pattern": "1"}, "sysctl"),
        ("sysctl", {"net/../kernel/core_pattern": "1"}, "sysctl"),
        ("sysctl", {"net": "1"}, "sysctl"),
        ("sysctl", {"net.x": "a\nb"}, "sysctl['net.x']"),
        ("sysctl", {"net.x": True}, "sysctl['net.x']"),
        ("time_offsets", {"realtime": 1}, "time_offsets"),
        ("time_offsets", {"boottime": "x"}, "time_offsets['boottime']"),
        ("time_offsets", {"boottime": 1e12}, "time_offsets['boottime']"),
        ("init", 1, "init"),
        ("tty", (0, 80), "tty[0]"),
        ("tty", (24,), "tty"),
        ("tty", 1, "tty"),
        ("tty", "yes", "tty"),
        ("stdin", "stdout", "stdin"),
        ("stdin", -2, "stdin"),
        ("stdout", "pip", "stdout"),
        ("stdout", -4, "stdout"),
        ("stderr", True, "stderr"),
        ("stderr", 1.0, "stderr"),
        ("pass_fds", [0], "pass_fds[0]"),
        ("pass_fds", [2], "pass_fds[0]"),
        ("pass_fds", [3, 3], "pass_fds[1]"),
        ("pass_fds", [-1], "pass_fds[0]"),
        ("pass_fds", 3, "pass_fds"),
        ("pass_fds", [True], "pass_fds[0]"),
        ("name", "", "name"),
        ("name", ".", "name"),
        ("name", "..", "name"),
        ("name", "a/b", "name"),
        ("name", "x" * 65, "name"),
        ("name", "a\n", "name"),
    ],
)
def test_nonsense_is_refused(field: str, given: Any, at: str) -> None:
    refused(lambda: Spec(**{"command": ["a"], field: given}), at)


@pytest.mark.parametrize("field", [item.name for item in attrs.fields(Namespaces)])
def test_a_namespace_is_new_shared_or_joined(field: str) -> None:
    for given in (True, False, 0, 7, "/proc/1/ns/net"):
        value = getattr(Namespaces(**{field: given}), field)
        assert value == given and type(value) is type(given)
    assert getattr(Namespaces(**{field: Path("/x")}), field) == "/x"
    for nonsense in (-1, "net", "", None, 1.0, "/a\0", 2**31):
        refused(lambda nonsense=nonsense: Namespaces(**{field: nonsense}), f"namespaces.{field}")
    assert Namespaces(**{field: 1}) != Namespaces(**{field: True}), "a descriptor is not True"


def test_an_open_file_is_kept_whole() -> None:
    with open(os.devnull, "rb") as file:
        assert Spec(["a"], stdin=file).stdin is file
        refused(lambda: Spec(["a"], stdin=file).to_dict(), "stdin", "written")


@pytest.mark.parametrize(
    ("fields", "at", "wish"),
    [
        ({"command": None, "init": False}, "command", "init is False"),
        ({"command": None, "namespaces": Namespaces(pid=False)}, "command", "namespaces.pid"),
        (
            {"uid_map": [IdMap(0, 0, 1)], "namespaces": Namespaces(user=False)},
            "uid_map",
            "namespaces.user=True",
        ),
        (
            {"gid_map": [IdMap(0, 0, 1)], "namespaces": Namespaces(user="/n")},
            "gid_map",
            "namespaces.user=True",
        ),
        ({"hostname": "x", "namespaces": Namespaces(uts=False)}, "hostname", "namespaces.uts=True"),
        ({"domainname": "x", "namespaces": Namespaces(uts=5)}, "domainname", "namespaces.uts=True"),
        ({"time_offsets": {"boottime": 1}}, "time_offsets", "namespaces.time=True"),
        (
            {"sysctl": {"net.x": "1"}, "namespaces": Namespaces(network=False)},
            "sysctl['net.x']",
            "network=True",
        ),
        (
            {"sysctl": {"kernel.sem": "1"}, "namespaces": Namespaces(ipc=3)},
            "sysctl['kernel.sem']",
            "ipc=True",
        ),
        ({"namespaces": Namespaces(mount=False)}, "rootfs", "rootfs=None"),
        ({"rootfs": Directory("/x"), "namespaces": Namespaces(mount="/n")}, "rootfs", "mount=True"),
        (
            {"rootfs": None, "mounts": [Tmpfs("/t")], "namespaces": Namespaces(mount=False)},
            "mounts",
            "mount=True",
        ),
        (
            {"rootfs": None, "devices": ["/dev/fuse"], "namespaces": Namespaces(mount=False)},
            "devices",
            "mount=True",
        ),
        (
            {
                "rootfs": None,
                "security": Security(masked_paths=["/x"]),
                "namespaces": Namespaces(mount=False),
            },
            "security.masked_paths",
            "mount=True",
        ),
        ({"tty": True, "stdout": "null"}, "stdout", "tty"),
        ({"tty": True, "stderr": 2}, "stderr", "tty"),
        ({"user": 0, "namespaces": Namespaces(user=False)}, "user", "security.privileged=True"),
        ({"user": "root", "namespaces": Namespaces(user=False)}, "user", "security.privileged=True"),
        (
            {"security": Security(capabilities=["CAP_KILL"]), "namespaces": Namespaces(user=False)},
            "security.capabilities",
            "security.privileged=True",
        ),
        ({"security": Security(capabilities=["CAP_KILL", "CAP_SYS_PTRACE"])}, "security.capabilities", "init=False"),
    ],
)
def test_two_fields_that_cannot_both_be_meant(fields: dict[str, Any], at: str, wish: str) -> None:
    refused(lambda: Spec(**{"command": ["a"]} | fields), at, wish)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": None},
        {"init": False},
        {"namespaces": Namespaces(pid=False)},
        {"tty": True, "stdin": "null", "stderr": "stdout"},
        {"rootfs": None, "namespaces": Namespaces(mount=False)},
        {"user": 0, "namespaces": Namespaces(user=False), "security": Security(privileged=True)},
        {"user": 1000, "namespaces": Namespaces(user=False)},
        {"init": False, "security": Security(capabilities=["CAP_SYS_PTRACE"])},
        {"namespaces": Namespaces(pid=False), "security": Security(capabilities=["CAP_SYS_PTRACE"])},
        {"security": Security(capabilities=["CAP_SYS_PTRACE"], privileged=True)},
        {"sysctl": {"user.max_user_namespaces": "0"}},
        {"time_offsets": {"boottime": "1h", "monotonic": -1.5}, "namespaces": Namespaces(time=True)},
    ],
)
def test_two_fields_that_can(fields: dict[str, Any]) -> None:
    Spec(**{"command": ["a"]} | fields)


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({}, True),
        ({"init": False}, False),
        ({"namespaces": Namespaces(pid=False)}, False),
        ({"namespaces": Namespaces(pid="/proc/1/ns/pid")}, False),
        ({"namespaces": Namespaces(pid=1)}, False),
    ],
)
def test_process_1_is_ours_in_a_pid_namespace_of_its_own(fields: dict[str, Any], has: bool) -> None:
    assert Spec(["a"], **fields).has_init is has


def test_an_error_does_not_tell_a_secret() -> None:
    error = refused(lambda: Spec(["a"], env={"TOKEN": "hunter2\0"}), "env['TOKEN']", "NUL")
    assert "hunter2" not in str(error) and "hunter2" not in repr(error.value)


def test_what_was_given_is_not_shared() -> None:
    env, mounts = {"A": "1"}, [Tmpfs("/t")]
    spec = Spec(["a"], env=env, mounts=mounts)
    env["B"] = "2"
    mounts.append(Tmpfs("/u"))
    assert spec.env == {"A": "1"} and len(spec.mounts) == 1
    assert Spec(["a"]).rlimits is not Spec(["b"]).rlimits


def test_evolve_makes_another_and_checks_it() -> None:
    spec = Spec(["a"], mounts=[Bind("/a", "/b")])
    assert attrs.evolve(spec, hostname="box").mounts == spec.mounts
    assert spec.rootfs == HostView()
    refused(lambda: attrs.evolve(spec, hostname="a b"), "hostname")
    refused(lambda: attrs.evolve(spec, namespaces=Namespaces(mount=False)), "rootfs")


def test_the_wish_for_a_string_says_how_to_write_it() -> None:
    assert "['sh', '-c'" in refused(lambda: Spec("ls | wc"), "command").wish


def test_building_specs_reads_no_file_and_loads_no_reader() -> None:
    code = "import sys, creche.spec as s; s.Spec(['a'], mounts=[s.Tmpfs('/t')]); " + (
        "print(*({'tomllib', 'creche.spec.load', 'creche.spec.schema', 'subprocess'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

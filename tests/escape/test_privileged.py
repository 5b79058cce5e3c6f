"""Family F, of containers that are privileged: what their root holds, and what it does not leave to its other users."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, inside, python, sh

import creche
from creche import HostView, IdMap, Namespaces, Security, Spec, Tmpfs
from creche.machine import CAPABILITIES, probe
from needs import needs

pytestmark = needs("userns", "native")
many_ids = needs() if ROOT else needs("subids", "newuidmap")
PRIVILEGED = Security(privileged=True, seccomp=None, no_new_privs=False)
SETS = "grep ^Cap /proc/self/status"


def maps() -> dict[str, Any]:
    """Ids beside the caller's, where they must be asked for."""
    if ROOT:
        return {}
    machine = probe()
    (uid, _), (gid, _) = machine.subuid[0], machine.subgid[0]
    return {"uid_map": [IdMap(0, os.geteuid(), 1), IdMap(1, uid, 99)], "gid_map": [IdMap(0, os.getegid(), 1), IdMap(1, gid, 99)]}


def sets(text: str) -> dict[str, int]:
    return {line.split()[0][3:-1]: int(line.split()[1], 16) for line in text.splitlines()}


FULL = sum(1 << number for number in range(len(CAPABILITIES)))
ROOTS_SETS = {"Inh": 0, "Prm": FULL, "Eff": FULL, "Bnd": FULL, "Amb": 0}


@pytest.mark.parametrize("fields", [{}, {"init": False}, {"security": Security(privileged=True)}, {"security": Security(privileged=True, seccomp=None)}])
def test_root_has_them_all_and_none_is_inheritable(fields: dict[str, Any]) -> None:
    assert sets(sh(SETS, **{"security": PRIVILEGED, **fields})) == ROOTS_SETS


def test_the_same_in_a_second_command() -> None:
    async def body(box: creche.Container) -> str:
        return (await box.run(["sh", "-c", SETS])).stdout.decode()

    assert sets(inside(body, Spec(rootfs=HostView(), security=PRIVILEGED))) == ROOTS_SETS


@needs("root")
@pytest.mark.parametrize("init", [True, False])
def test_the_hosts_root_likewise(init: bool) -> None:
    found = sets(sh(SETS, security=PRIVILEGED, namespaces=Namespaces(user=False), init=init))
    mine = sets("\n".join(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")))
    assert found == {"Inh": 0, "Prm": mine["Bnd"], "Eff": mine["Bnd"], "Bnd": mine["Bnd"], "Amb": 0}


@many_ids
def test_another_user_has_none() -> None:
    found = sets(sh(SETS, user=7, security=PRIVILEGED, **maps()))
    assert found == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": FULL, "Amb": 0}


def test_capabilities_that_are_listed_are_in_every_set() -> None:
    """One list for all sets, as documented: then there is nothing beyond it that a file could give."""
    found = sets(sh(SETS, security=Security(privileged=True, capabilities=["CAP_CHOWN"])))
    assert set(found.values()) == {1}


#: A program whose file gives what its caller may inherit, started by an ordinary user of the container.
GAINS = """
import ctypes, os, shutil, struct, sys
shutil.copy("/usr/bin/cat", "/w/cat")
every = 0xFFFFFFFF
os.setxattr("/w/cat", "security.capability", struct.pack("=5I", 0x0200_0001, 0, every, 0, (1 << 9) - 1))
if sys.argv[1] == "inheritable":
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0)), ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    low, high = (struct.unpack_from("=I", data.raw, at)[0] for at in (4, 16))
    data.raw = struct.pack("=6I", low, low, low, high, high, high)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
os.setgroups([])
os.setgid(7)
os.setuid(7)
os.execv("/w/cat", ["cat", "/proc/self/status"])
"""


@many_ids
@pytest.mark.parametrize("inheritable", [False, True])
def test_f13_a_file_gives_nothing_that_could_be_inherited(inheritable: bool) -> None:
    """CVE-2022-24769. Control: with an inheritable set that is full, as that was, an ordinary user of the container has it all."""
    text = python(GAINS, "inheritable" if inheritable else "empty", security=PRIVILEGED, mounts=[Tmpfs("/w", nosuid=False)], **maps())
    found = sets("\n".join(line for line in text.splitlines() if line.startswith("Cap")))
    assert found["Prm"] == (FULL if inheritable else 0)

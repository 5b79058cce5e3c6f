"""F10 and J4: the keys of whoever supervises, which no namespace hides, are not those of a guest whose filter lets it use keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import creche
from creche import Security, Spec
from creche.plan.steps import Keyrings
from creche.planning import plan_of
from needs import needs

pytestmark = needs("userns", "native", "keys")

#: What all of them begin with: keys by raw calls, as a container has no library for them.
KEYS = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ADD, CONTROL = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
def call(number, *arguments):
    result = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
"""
#: The guest's: finds a key by its name in what it has, and reads it by its number.
STEAL = (
    KEYS
    + """
def tried(attack):
    try:
        return attack()
    except OSError as error:
        return errno.errorcode[error.errno]
def read():
    room = ctypes.create_string_buffer(64)
    call(CONTROL, 11, int(sys.argv[1]), room, 64)
    return room.value.decode()
ring = tried(lambda: call(CONTROL, 0, -3, 0))
print(json.dumps({
    "search": tried(lambda: call(CONTROL, 10, -3, b"user", b"creche-test", 0) and "found"), "read": tried(read),
    "revoke": tried(lambda: call(CONTROL, 3, int(sys.argv[1])) or "revoked") if len(sys.argv) > 2 else "",
    "own": tried(lambda: call(ADD, b"user", b"creche-test-own", b"x", 1, -3) and "kept"), "ring": ring,
}))
"""
)
#: The supervisor's: a session keyring with a secret in it, and guests that look for it.
SUPERVISE = (
    KEYS
    + """
sys.path[:0] = json.loads(sys.argv[1])
call(CONTROL, 1, None)
secret = call(ADD, b"user", b"creche-test", b"s3cret", 6, -3)
import anyio, creche
from creche import Namespaces, Security, SeccompRules, Spec
argv = ["python3", "-I", "-S", "-c", sys.argv[2], str(secret)]
async def main():
    told = {"ours": call(CONTROL, 0, -3, 0)}
    for name, fields in eval(sys.argv[3]).items():
        told[name] = json.loads((await creche.run(argv, check=True, **fields)).stdout)
    async with creche.Container(Spec(security=Security(seccomp=None))) as box:
        for name in ("first", "second"):
            told[name] = json.loads((await box.run(argv)).stdout)
    told["control"] = json.loads((await anyio.run_process(argv)).stdout)
    print(json.dumps(told))
anyio.run(main)
"""
)
BOXES = """{
    "no filter": dict(security=Security(seccomp=None)),
    "no init": dict(security=Security(seccomp=None), init=False),
    "let through": dict(security=Security(seccomp=SeccompRules(allow=["keyctl", "add_key"]))),
    "no namespace of users": dict(security=Security(seccomp=None, privileged=True), namespaces=Namespaces(user=False)) if os.geteuid() == 0 else dict(security=Security(seccomp=None)),
}"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    path = json.dumps([str(Path(creche.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, path, STEAL, BOXES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "box", ["no filter", "no init", "let through", "no namespace of users", "first", "second"]
)
def test_f10_a_guest_has_a_session_keyring_of_its_own(told: dict[str, Any], box: str) -> None:
    assert told[box]["search"] == "ENOKEY"
    assert told[box]["read"] in ("EACCES", "ENOKEY")
    assert (
        told[box]["own"] == "kept"
        and isinstance(told[box]["ring"], int)
        and told[box]["ring"] != told["ours"]
    )


def test_f10_a_container_s_commands_share_it(told: dict[str, Any]) -> None:
    assert told["first"]["ring"] == told["second"]["ring"] != told["no filter"]["ring"]


def test_f10_control_a_program_like_others_has_the_supervisors(told: dict[str, Any]) -> None:
    assert (
        told["control"]["search"] == "found"
        and told["control"]["read"] == "s3cret"
        and told["control"]["ring"] == told["ours"]
    )


@pytest.mark.parametrize(
    ("security", "keyring"),
    [
        (Security(), False), (Security(seccomp="strict"), False), (Security(seccomp=None), True),
        (Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW"}), True), (Security(seccomp={"defaultAction": "SCMP_ACT_LOG"}), True),
        (Security(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["keyctl", "add_key", "request_key"], "action": "SCMP_ACT_ERRNO"}]}), False),
        (Security(seccomp=creche.spec.SeccompRules(notify=["keyctl"])), True),
    ],
)  # fmt: skip
def test_it_costs_a_key_only_where_keys_can_be_used(security: Security, keyring: bool) -> None:
    """An ordinary user has 200 of them: kernel.keys.maxkeys."""
    plan = plan_of(Spec(["true"], security=security))
    assert any(isinstance(step, Keyrings) for step in plan.setup) is keyring

"""Who a command is and what it may: other users, no user namespace at all, capabilities in every set."""

from __future__ import annotations

import os
import re

import anyio
import pytest

import creche
from creche import Namespaces, Security
from needs import needs

SETS = ("Inh", "Prm", "Eff", "Bnd", "Amb")
NONE = Namespaces(user=False, mount=False, pid=False, network=False, ipc=False, uts=False, cgroup=False)


def status(**fields: object) -> dict[str, str]:
    """/proc/self/status of a command, as names and values."""
    result = anyio.run(lambda: creche.run(["cat", "/proc/self/status"], **fields))
    assert result.exit.ok, f"{result.exit.explain()} {result.stderr!r}"
    return dict(re.findall(r"^(\w+):\s+(.*)$", result.stdout.decode(), re.M))


@needs("userns")
@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("user", [None, 7])
@pytest.mark.parametrize("names", [(), ("CAP_CHOWN", "CAP_SETUID")])
def test_every_set_of_any_user_is_the_list_of_the_spec(init: bool, user: int | None, names: tuple[str, ...]) -> None:
    found = status(init=init, user=user, security=Security(capabilities=names))
    wanted = sum(1 << {"CAP_CHOWN": 0, "CAP_SETUID": 7}[name] for name in names)
    assert {name: int(found[f"Cap{name}"], 16) for name in SETS} == dict.fromkeys(SETS, wanted)
    assert found["Uid"].split() == [str(user or 0)] * 4


@needs("user")
def test_without_a_user_namespace_an_ordinary_caller_has_nothing_and_can_gain_nothing() -> None:
    found = status(namespaces=NONE, rootfs=None)
    assert {int(found[f"Cap{name}"], 16) for name in SETS if name != "Bnd"} == {0}
    assert found["NoNewPrivs"] == "1", "the bounding set is not his to drop, so this must be there"
    assert found["Uid"].split() == [str(os.getuid())] * 4

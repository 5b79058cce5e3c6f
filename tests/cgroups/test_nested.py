"""Creche in creche: what a supervisor in a limited container makes stands below that container's limits."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from cgroups.conftest import kinds

from creche.cgroups import Group, Place
from needs import needs

pytestmark = needs("root", "native", "userns")

#: A supervisor, which gives its container more than it has itself, and says how that ended.
INNER = """
import os
os.environ["CRECHE_CGROUP"] = {kind!r}
import anyio, creche
async def main():
    program = ["python3", "-I", "-S", "-c", "x = bytearray(256 << 20)"]
    exit = (await creche.run(program, limits=creche.Limits(memory="1G", swap=0))).exit
    print(exit.reason.name, exit.limit, flush=True)
anyio.run(main)
"""


@pytest.mark.parametrize(("memory", "told"), [("128M", "OOM None"), ("600M", "EXITED None")], ids=["less", "control"])
@pytest.mark.parametrize("place", kinds("v2", "v1"), indirect=True)
def test_a_nested_containers_limit_is_below_its_parents(place: Place, group: Callable[..., Group], start: Callable, memory: str, told: str) -> None:
    """More than the parent has is not to be had, whatever the nested limit says; and that limit is not blamed for it."""
    outer = start(group(memory=memory).command("main"), [sys.executable, "-c", INNER.format(kind=place.kind)])
    assert outer.told() == told

"""A23: what a container's own mount table tells of the host: numbers that its id maps tell as well, and no path of anybody's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from privileged.look import ROOT, python

from creche import Bind, IdMap, Overlay, Tmpfs
from needs import needs

pytestmark = needs("userns", "native")
LOOK = "import json; print(json.dumps([open('/proc/self/' + name).read() for name in ('mountinfo', 'uid_map', 'gid_map')]))"


def told(**fields: Any) -> tuple[str, list[range]]:
    """The mount table, and the numbers outside that the maps tell."""
    mounts, *maps = json.loads(python(LOOK, **fields))
    lines = [[int(number) for number in line.split()] for text in maps for line in text.splitlines()]
    return mounts, [range(outside, outside + count) for _, outside, count in lines]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mounts": [Tmpfs("/data")]},
        *([{"uid_map": [IdMap(0, 0, 1)], "gid_map": [IdMap(0, 0, 1)]}] if ROOT else []),
    ],
    ids=str,
)
def test_a23_numbers_are_those_of_the_maps(fields: dict[str, Any]) -> None:
    """tmpfs prints its owner as the first user namespace numbers it, unless that is 0 (shmem_show_options in the kernel)."""
    mounts, outside = told(**fields)
    numbers = {int(number) for number in re.findall(r"\b[ug]id=(\d+)", mounts)}
    assert all(any(number in ids for ids in outside) for number in numbers)
    assert numbers or outside[0][0] == 0, "the control: where the owner is not 0 it is printed"


@needs("overlay")
def test_a23_layers_are_told_by_no_path_of_the_host(tmp_path: Path) -> None:
    """An image's own name in a mount's options would tell whose it is; a Bind is told by its path in its file system, as ever."""
    for name in ("image", "bound"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    mounts, _ = told(
        mounts=[Overlay([tmp_path / "image"], target="/o"), Bind(tmp_path / "bound", "/b", readonly=True)]
    )
    overlay, bind = (
        next(line for line in mounts.splitlines() if f" {target} " in line) for target in ("/o", "/b")
    )
    assert str(tmp_path) not in overlay and "=/proc/self/fd/" in overlay
    assert str(tmp_path) in bind  # the control, and documented: proc_pid_mountinfo(5), field 4

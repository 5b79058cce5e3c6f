"""docs/api.md names every public name once, with a line about it, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import creche

ROWS = re.findall(
    r"^\| `(\w+)` \| (.+) \|$", (Path(__file__).parents[2] / "docs" / "api.md").read_text(), re.M
)


def test_the_index_holds_the_public_names() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(creche.__all__)


def test_each_has_a_line() -> None:
    assert all(len(line.split()) > 1 for _, line in ROWS)

"""docs/security.md: each attack that it names is tried in the file that it names, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from creche.spec.presets import PRESETS

TOP = Path(__file__).parents[2]
TEXT = (TOP / "docs/security.md").read_text()
ROWS = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ") and line.endswith("` |") and re.search(r"\| [A-J]\d", line)]


def _tried(name: str) -> set[str]:
    path = TOP / name if "/" in name else TOP / "tests/escape" / name
    found = re.findall(r"\b([A-J]\d{1,2})\b|(?<=_)([a-j]\d{1,2})(?=_)", path.read_text())
    return {(upper or lower).upper() for upper, lower in found}


def test_there_are_rows() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("| ")[:40])
def test_a_rows_attacks_are_tried_where_it_says(row: list[str]) -> None:
    attacks, files = row[-2].split(), re.findall(r"`([^`]+)`", row[-1])
    assert attacks and files
    missing = set(attacks) - set().union(*(_tried(name) for name in files))
    assert not missing


def _has_control(name: str) -> bool:
    path = TOP / name if "/" in name else TOP / "tests/escape" / name
    return bool(re.search(r"control|pair\(", path.read_text()))


#: How many attacks each family of the catalogue has.
FAMILIES = {"A": 23, "B": 14, "C": 7, "D": 11, "E": 17, "F": 23, "G": 13, "H": 9, "I": 15, "J": 11}


def test_every_attack_of_the_catalogue_is_tried_or_said_not_to_be() -> None:
    tried = {attack for row in ROWS for attack in row[-2].split()}
    left = set(re.findall(r"^\| ([A-J]\d+) \|", TEXT, re.M))
    assert not tried & left
    assert tried | left == {f"{family}{number}" for family, count in FAMILIES.items() for number in range(1, count + 1)}


def test_a_hundred_attacks_of_the_catalogue_are_tried_where_there_is_a_control() -> None:
    """Distinct ones of its 143, in a file that runs the same program where one defence is absent."""
    counted = {attack for row in ROWS if any(map(_has_control, re.findall(r"`([^`]+)`", row[-1]))) for attack in row[-2].split()}
    assert len(counted) >= 130


def test_the_presets_are_named() -> None:
    assert [name for name in re.findall(r'^\| `"(\w+)"` \|', TEXT, re.M)] == list(PRESETS)

"""docs/seccomp.md says what the profiles do: its tables hold the calls and reasons of ours."""

from __future__ import annotations

import re
from pathlib import Path

from creche.plan.seccomp.default import DANGEROUS_IOCTLS, LOOKED_AT, OPENED_BY, REFUSED

TEXT = (Path(__file__).parents[2] / "docs" / "seccomp.md").read_text()


def row(start: str) -> str:
    found = re.search(rf"^\| {re.escape(start)} \|.*$", TEXT, re.M)
    assert found, f"no row for {start}"
    return found.group()


def test_each_capability_has_its_row() -> None:
    """With the calls that it opens, and no others."""
    for capability, names in OPENED_BY.items():
        said = set(re.findall(r"`([a-z0-9_]+)`", row(f"`{capability}`")))
        assert said == set(names.split())


def test_each_refusal_has_its_row() -> None:
    """The calls that no capability opens, all but those that no kernel has any more; and what is looked at."""
    for names in REFUSED.values():
        if len(names.split()) < 5:
            row(" ".join(f"`{name}`" for name in names.split()))
    for name in (*LOOKED_AT.split(), *DANGEROUS_IOCTLS):
        assert name in TEXT

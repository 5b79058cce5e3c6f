"""A file has one reason, says it in its first line, and can be read at one sitting."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from house.house import NATIVE, SOURCE, TOP

LONGEST = 450

PYTHON = sorted(
    path for path in TOP.rglob("*.py") if not {"build", ".venv"} & set(path.relative_to(TOP).parts)
)
OURS = sorted(
    [*SOURCE.rglob("*.py"), *(path for path in NATIVE.iterdir() if path.suffix in {".c", ".h", ".py"})]
)


def name(path: Path) -> str:
    return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_module_says_why_it_exists(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, f"{name(path)} does not open with a docstring"
    first = doc.splitlines()[0]
    assert len(first.split()) > 2 and first[-1] in ".:;", f"the first line is no sentence: {first!r}"


@pytest.mark.parametrize("path", [path for path in OURS if path.suffix in {".c", ".h"}], ids=name)
def test_a_c_file_says_why_it_exists(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert re.match(r"/\* \w.+", first), f"{name(path)} opens with {first!r}"


@pytest.mark.parametrize("path", OURS, ids=name)
def test_a_file_can_be_read_at_one_sitting(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST, f"{name(path)} has {lines} lines: which two reasons does it have?"


def test_the_programs_of_continuous_integration_can_be_run() -> None:
    for path in (TOP / ".ci").iterdir():
        assert os.access(path, os.X_OK), f"{name(path)} is not executable"
        assert path.read_text().splitlines()[1][:2] in {"# ", '""'}, (
            f"{name(path)} does not say why it exists"
        )

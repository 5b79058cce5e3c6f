"""The Plans of a few Specs, word by word: a change of what the kernel is told is seen in a diff.

`CRECHE_WRITE_GOLDEN=1 pytest tests/plan/test_golden.py` writes them anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from plan.examples import EXAMPLES, plan

from creche.plan.render import as_dict, as_text
from creche.plan.steps import STEPS

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_plan_is_what_is_written(name: str) -> None:
    path, text = GOLDEN / f"{name}.txt", as_text(plan(*EXAMPLES[name])) + "\n"
    if os.environ.get("CRECHE_WRITE_GOLDEN"):
        path.write_text(text)
    assert text.splitlines() == path.read_text().splitlines()


def test_no_file_is_left_of_an_example_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_json_holds_every_step_and_no_secret(name: str) -> None:
    compiled = plan(*EXAMPLES[name])
    data = json.loads(json.dumps(as_dict(compiled)))
    for part in ("parent", "setup", "command"):
        assert [step["op"] for step in data[part]] == [step.op for step in getattr(compiled, part)]
    assert "s3cret" not in json.dumps(data)
    assert "s3cret" not in as_text(compiled)
    assert "nobody" not in as_text(compiled)


def test_the_secrets_are_in_the_plan_itself() -> None:
    """Or the test above could not fail."""
    compiled = plan(*EXAMPLES["directory-and-mounts"])
    assert b"s3cret" in compiled.command[-1].text2
    assert any(b"s3cret" in step.text2 for step in compiled.setup)


def test_compiling_twice_gives_the_same() -> None:
    for spec, machine in EXAMPLES.values():
        assert plan(spec, machine) == plan(spec, machine)


def test_each_step_has_words_of_its_own() -> None:
    from creche.plan.render import _CALLS

    assert {op for op in STEPS} - _CALLS.keys() == set()

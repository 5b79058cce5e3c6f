"""The reference of the Spec names every class and every field, with the defaults that hold."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

import creche.errors
import creche.spec as room
from creche.errors import SpecError
from creche.results import Reason
from creche.spec import Spec

DOCS = Path(__file__).parents[2] / "docs"
SPEC, ERRORS = (DOCS / "spec.md").read_text(), (DOCS / "errors.md").read_text()
CLASSES = [cls for cls in map(room.__dict__.get, room.__all__) if isinstance(cls, type) and attrs.has(cls)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_and_field_is_in_the_reference(cls: type) -> None:
    assert f"`{cls.__name__}" in SPEC or f"## {cls.__name__}" in SPEC
    for item in attrs.fields(cls):
        assert item.name in SPEC, f"{cls.__name__}.{item.name}"
        if type(item.default) in (bool, int) and cls is not Spec:
            shown = f"{item.default:#o}" if item.name == "mode" else repr(item.default)
            assert f"{item.name}={shown}" in SPEC or f"| `{item.name}` | `{shown}` |" in SPEC, item.name


def test_every_error_and_reason_is_in_the_reference() -> None:
    assert all(f"## {name}" in ERRORS for name in creche.errors.__all__ if name != "CrecheError")
    assert all(f"`{reason.name}`" in ERRORS for reason in Reason)


def test_the_errors_shown_are_the_errors_raised() -> None:
    shown = ERRORS.partition("## SpecError")[2].split("```")[1].splitlines()[1:]
    for line, data in zip(
        shown,
        [
            {"limits": {"memory": 0}},
            {"mounts": [{"type": "sysfs"}, {"type": "tmpfs", "target": "data"}]},
            {"limits": {"memroy": "64M"}},
        ],
        strict=True,
    ):
        with pytest.raises(SpecError) as caught:
            Spec.from_dict(data)
        assert str(caught.value) == line


def test_the_file_shown_is_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.partition("```toml")[2].partition("```")[0])
    assert Spec.from_file(path).limits.memory == 64 << 20

"""What holds for every Spec: built once or twice, written and read again, it is the same; and no switch opens it."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
from typing import Any

import attrs
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec.strategies import specs

import creche.spec as room
from creche.errors import SpecError
from creche.spec import Spec
from creche.spec.checks import Check, changed
from creche.spec.schema import json_schema

CLASSES = [
    cls
    for cls in map(room.__dict__.get, room.__all__)
    if isinstance(cls, type) and attrs.has(cls) and cls.__name__ != "UserRef"
]
SCHEMA = jsonschema.Draft202012Validator(json_schema())
some = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@some
@given(specs())
def test_what_is_normal_stays_as_it_is(spec: Spec) -> None:
    """Each field's normal form is taken as it is: `attrs.evolve` gives every field to its check again."""
    again = attrs.evolve(spec)
    assert again == spec
    assert attrs.asdict(again) == attrs.asdict(spec)


@some
@given(specs(), specs(), st.data())
def test_changed_is_evolve_where_only_what_is_changed_is_checked(spec: Spec, other: Spec, data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from([item.name for item in attrs.fields(Spec)])))
    changes = {name: getattr(other, name) for name in names}
    try:
        expected = attrs.evolve(spec, **changes)
    except SpecError as error:
        with pytest.raises(SpecError) as caught:
            changed(spec, changes)
        assert str(caught.value) == str(error)
    else:
        assert changed(spec, changes) == expected


@some
@given(specs())
def test_a_spec_survives_being_written(spec: Spec) -> None:
    plain = spec.to_dict()
    text = json.dumps(plain)
    assert Spec.from_dict(json.loads(text)) == spec
    assert Spec.from_dict(plain).to_dict() == plain
    SCHEMA.validate(json.loads(text))


@some
@given(specs())
def test_a_spec_survives_pickling(spec: Spec) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec


@some
@given(specs())
def test_after_construction_each_field_has_its_type(spec: Spec) -> None:
    assert spec.command is None or all(type(word) is str for word in spec.command)
    assert spec.env is None or all(type(key) is str and type(value) is str for key, value in spec.env.items())
    assert type(spec.limits) is room.Limits
    assert all(
        type(soft) is int and type(hard) is int and soft <= hard for soft, hard in spec.rlimits.values()
    )
    assert all(type(item.target) is str and item.target.startswith("/") for item in spec.mounts)  # type: ignore[union-attr]
    assert spec.tty is None or isinstance(spec.tty, tuple)


NONSENSE: list[tuple[type, dict[str, Any]]] = [
    (room.Limits, {"memory": "12 apples"}),
    (room.IdMap, {"inside": -1, "outside": 0, "count": 1}),
    (room.Bind, {"source": "/a", "target": "../b"}),
    (room.Security, {"capabilities": ["CAP_EVERYTHING"]}),
    (room.Namespaces, {"user": "maybe"}),
    (Spec, {"command": "rm -rf /"}),
    (Spec, {"command": ["true"], "hostname": "x", "namespaces": room.Namespaces(uts=False)}),
]


@pytest.mark.parametrize(("cls", "fields"), NONSENSE)
def test_switching_validators_off_opens_nothing(cls: type, fields: dict[str, Any]) -> None:
    """Any library in the process may call set_disabled(True). The control shows what it would do to a validator."""

    @attrs.frozen
    class Control:
        field: int = attrs.field(validator=attrs.validators.instance_of(int))

    with pytest.raises(TypeError):
        Control("nonsense")  # type: ignore[arg-type]
    attrs.validators.set_disabled(True)
    try:
        Control("nonsense")  # type: ignore[arg-type]
        with pytest.raises(SpecError):
            cls(**fields)
    finally:
        attrs.validators.set_disabled(False)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_signature_for_type_checkers_is_that_of_the_class(cls: type) -> None:
    """Under TYPE_CHECKING each class tells what may be given; names, kinds and defaults must be the real ones."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(cls)))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    fields = attrs.fields(cls)
    assert len(functions) == (1 if fields else 0)
    if not fields:
        return
    told, real = functions[0].args, inspect.signature(cls).parameters.values()
    assert [arg.arg for arg in told.args[1:]] == [
        item.name for item in real if item.kind is item.POSITIONAL_OR_KEYWORD
    ]
    assert [arg.arg for arg in told.kwonlyargs] == [
        item.name for item in real if item.kind is item.KEYWORD_ONLY
    ]
    defaults = dict(zip([arg.arg for arg in reversed(told.args)], reversed(told.defaults), strict=False))
    defaults |= {
        arg.arg: value for arg, value in zip(told.kwonlyargs, told.kw_defaults, strict=True) if value
    }
    for item in real:
        assert (item.name in defaults) is (item.default is not item.empty), item.name
        value = ast.literal_eval(defaults[item.name]) if item.name in defaults else ...
        assert value in (..., None) or value == item.default, item.name


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_is_documented_and_checks_by_converters_alone(cls: type) -> None:
    assert cls.__doc__ and len(cls.__doc__.split()) > 3
    for item in attrs.fields(cls):
        assert (
            item.validator is None
            and item.converter is not None
            and isinstance(item.metadata["check"], Check)
        )
        if not isinstance(item.default, attrs.Factory) and item.default is not attrs.NOTHING:  # type: ignore[arg-type]
            assert item.metadata["check"](item.default, "") == item.default, "a default is not checked: it must be normal"


@pytest.mark.parametrize(
    "value",
    [room.HostView(), room.IdMap(0, 0, 1), room.Limits(), room.Proc(), room.Security(), Spec(["true"])],
)
def test_a_value_cannot_be_changed(value: Any) -> None:
    with pytest.raises(AttributeError):
        value.name = "other"
    with pytest.raises(AttributeError):
        value.anything = 1


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    json.dumps(json_schema())


FIELDS = [item.name for item in attrs.fields(Spec)]
leaves = st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.binary()


def nested(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


@some
@given(nested(st.sampled_from([*FIELDS, "type", "memory", "target", "base64"]) | st.text()))
def test_whatever_a_file_holds_a_spec_or_a_spec_error_comes_of_it(data: Any) -> None:
    try:
        spec = Spec.from_dict(data)
    except SpecError as error:
        assert str(error).isprintable() and error.field
    else:
        assert Spec.from_dict(spec.to_dict()) == spec


@some
@given(st.sampled_from(FIELDS), nested(st.text()))
def test_a_field_takes_a_value_or_names_itself(name: str, value: Any) -> None:
    try:
        Spec(**{"command": ["true"], name: value})
    except SpecError as error:
        assert error.field.startswith(name)

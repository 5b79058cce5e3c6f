"""A JSON Schema (2020-12) of the files that `Spec.from_file` reads, made from the classes themselves."""

from __future__ import annotations

import inspect
from typing import Any

import attrs

from .checks import A, Check, Each, Maybe, Schema
from .filesystem import HostView
from .load import NONE, _fields, tag
from .security import Seccomp, SeccompRules
from .spec import Spec

__all__ = ["json_schema"]


def json_schema() -> Schema:
    """What `Spec.from_dict` takes, as a new dict that JSON can hold. Rules between fields are not in it."""
    definitions: dict[str, Schema] = {}
    top = _definition(Spec, False, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "creche Spec",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _definition(cls: type, tagged: bool, definitions: dict[str, Schema]) -> Schema:
    properties: dict[str, Schema] = {"type": {"const": tag(cls)}} if tagged else {}
    required = ["type"] if tagged else []
    for attribute in attrs.fields(cls):
        check: Check = attribute.metadata["check"]
        _collect(check, definitions)
        properties[attribute.name] = _field(check, attribute.default)
        if attribute.default is attrs.NOTHING:
            required.append(attribute.name)
    described = {"description": inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]}
    needs = {"required": required} if required else {}
    return {"type": "object", **described, "properties": properties, **needs, "additionalProperties": False}


def _collect(check: Check, definitions: dict[str, Schema]) -> None:
    """The definitions of the classes that `check` refers to."""
    while isinstance(check, (Maybe, Each)):
        check = check.check
    classes: tuple[type, ...] = (
        (SeccompRules,) if isinstance(check, Seccomp) else getattr(check, "classes", ())
    )
    for cls in classes:
        if cls.__name__ not in definitions:
            definitions[cls.__name__] = {}  # so that a class may refer to itself
            definitions[cls.__name__] = _definition(
                cls, isinstance(check, A) and len(classes) > 1, definitions
            )


def _field(check: Check, default: Any) -> Schema:
    schema = check.schema()
    inner = check.check if isinstance(check, Maybe) else check
    if isinstance(inner, A) and HostView in inner.classes:
        schema = {"anyOf": [schema, {"enum": [NONE, tag(HostView)]}]}
    if isinstance(inner, Seccomp):
        schema = {"anyOf": [schema, {"const": NONE}]}
    described = {"description": inner.wish} | schema
    if default is attrs.NOTHING or default is None or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return described
    if isinstance(default, HostView):
        return described | {"default": tag(HostView)}
    plain = _fields(default, "") if attrs.has(type(default)) else default
    return described | {"default": list(plain) if isinstance(plain, tuple) else plain}

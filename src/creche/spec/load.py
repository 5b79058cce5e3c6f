"""Plain data (a dict, TOML, JSON) to a Spec and back; the one place here that opens a file.

Values are never coerced: each goes to the class's own checks as it is. What is added is only a form for what plain
data lacks: ``type`` tells a mount's or a rootfs's class, ``{"base64": …}`` holds bytes, ``"none"`` stands for None
where that is not the default (TOML has no null).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs

from ..errors import SpecError
from ..units import escaped
from .checks import A, Check, Each, Maybe, below, nearest
from .filesystem import Content, HostView
from .security import Seccomp, SeccompRules
from .spec import Spec
from .tuning import INFINITY

__all__ = ["NONE", "from_dict", "from_file", "tag", "to_dict"]

NONE = "none"
_LARGEST = 32 << 20  # bytes of a file


def tag(cls: type) -> str:
    """The ``type`` of a mount or rootfs in plain data: its class's name in small letters."""
    return cls.__name__.lower()


def from_file(path: str | os.PathLike[str]) -> Spec:
    """The Spec in a ``.toml`` or ``.json`` file; see `Spec.from_file`."""
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".toml", ".json"):
        raise SpecError("Spec", name, "give a file that ends in .toml or .json")
    with open(name, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise SpecError("Spec", name, f"it is larger than {_LARGEST >> 20} MiB")
    try:
        text = content.decode()
        data = _toml(text) if suffix == ".toml" else _json(text)
    except SpecError:
        raise
    except (
        ValueError,
        RecursionError,
    ) as error:  # both parsers' errors, and UnicodeDecodeError, are ValueErrors
        raise SpecError("Spec", name, f"it is no valid {suffix[1:].upper()}: {escaped(str(error))}") from None
    return from_dict(data)


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _json(text: str) -> Any:
    import json

    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a key twice, and readers differ in which one counts: neither does here (TOML forbids it itself)."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, value in pairs:
            if key in seen:
                raise SpecError(key, value, "the key is there twice in one object; leave one out")
            seen.add(key)
    return result


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number that JSON has")


def from_dict(fields: Mapping[str, Any]) -> Spec:
    """The Spec of plain data; see `Spec.from_dict`."""
    spec = _object((Spec,), fields, "")
    assert isinstance(spec, Spec)
    return spec


def _object(classes: tuple[type, ...], value: Any, path: str) -> Any:
    """An object of one of `classes` from its mapping; errors in it are told from `path`."""
    where = path or "Spec"
    if isinstance(value, classes):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(
            where, value, f"give an object with the fields of {' or '.join(c.__name__ for c in classes)}"
        )
    fields = dict(value)
    cls = classes[0]
    if len(classes) > 1:
        cls = _tagged(classes, fields.pop("type", None), path)
    known = {attribute.name: attribute for attribute in attrs.fields(cls)}
    for key, item in fields.items():
        if key not in known:
            raise SpecError(below(path, key), item, f"{cls.__name__} has no such field{nearest(key, known)}")
    for name, attribute in known.items():
        if attribute.default is attrs.NOTHING and name not in fields:
            raise SpecError(below(path, name), None, "it is required")
    given = {
        name: _value(known[name].metadata["check"], item, below(path, name)) for name, item in fields.items()
    }
    try:
        return cls(**given)
    except SpecError as error:
        raise error.at(cls.PLACE, path) from None  # type: ignore[attr-defined]


def _tagged(classes: tuple[type, ...], word: object, path: str) -> type:
    tags = {tag(cls): cls for cls in classes}
    if not isinstance(word, str) or word not in tags:
        raise SpecError(below(path, "type"), word, f"give one of {', '.join(tags)}{nearest(word, tags)}")
    return tags[word]


def _value(check: Check, value: Any, path: str) -> Any:
    """What `check` takes, from its plain form; anything that has no plain form of its own stays as it is."""
    if isinstance(check, Maybe):
        if value is None or (value == NONE and HostView in getattr(check.check, "classes", ())):
            return None
        return _value(check.check, value, path)
    if isinstance(check, A):
        if value is None:
            return check(value, path)  # an error, or what None means to this field
        if value == tag(HostView) and HostView in check.classes:
            return HostView()
        return _object(check.classes, value, path)
    if isinstance(check, Each) and isinstance(value, (list, tuple)):
        return [_value(check.check, item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(check, Seccomp):
        if value == NONE:
            return None
        if isinstance(value, Mapping) and "defaultAction" not in value:
            return _object((SeccompRules,), value, path)
    if isinstance(check, Content) and isinstance(value, Mapping):
        return _bytes(value, path)
    return value


def _bytes(value: Mapping[str, Any], path: str) -> bytes:
    if set(value) != {"base64"} or not isinstance(value["base64"], str):
        raise SpecError(path, value, 'give text, or {"base64": "…"}')
    try:
        return base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise SpecError(f"{path}.base64", value["base64"], f"it is no base64: {error}") from None


def to_dict(spec: Spec) -> dict[str, Any]:
    """The plain data of a Spec; see `Spec.to_dict`."""
    return _fields(spec, "")


def _fields(value: Any, path: str) -> dict[str, Any]:
    """The fields of an object that differ from their defaults."""
    result = {}
    for attribute in attrs.fields(type(value)):
        item = getattr(value, attribute.name)
        default = attribute.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type] # it is a class, typed as a function
            default = default.factory()
        if type(item) is type(default) and item == default:  # the type too: the descriptor 1 is not True
            continue
        result[attribute.name] = _plain(attribute.metadata["check"], item, below(path, attribute.name))
    return result


def _plain(check: Check, value: Any, path: str) -> Any:
    while isinstance(check, Maybe):
        check = check.check
    if value is None:
        return NONE
    if attrs.has(type(value)):
        kind = {"type": tag(type(value))} if isinstance(check, A) and len(check.classes) > 1 else {}
        return kind | _fields(value, path)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        inner = check.check if isinstance(check, Each) else check
        return [_plain(inner, item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {
            key: None if item is None else _plain(Check(), item, f"{path}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_plain(Check(), item, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, (str, int, float)):
        raise SpecError(
            path, value, "an object with fileno() has no written form; give a word or a descriptor"
        )
    if value == INFINITY and path.startswith("rlimits"):
        return "unlimited"  # TOML's ints have 63 bits
    return value

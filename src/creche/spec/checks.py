"""One shape for every check of a Spec's field: value in, one type out, or a SpecError with the full path.

A check is a small object: called with a value and its path it normalises, then checks; asked for `schema` it
says in JSON Schema what it takes. `setting` makes it the *converter* of a field. Converters always run, whereas
validators stop running in the whole process once anybody calls ``attrs.validators.set_disabled(True)``.

With `setting`, type checkers see a field's type after the conversion. What may be given is told by an `__init__`
under TYPE_CHECKING, of which a class is relieved by `built`; tests hold the two together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import attrs

from ..errors import SpecError

Schema = dict[str, Any]
T = TypeVar("T")

ID_END = 2**32 - 1  #: the first number that is no uid or gid: the kernel's "no such id" (user_namespaces(7))
_PATH_MAX = 4096  # bytes with the NUL: path_resolution(7)
_NAME_MAX = 255


class Check:
    """What a field takes. Subclasses return the normalised value or raise SpecError."""

    wish = "give something else"

    def __call__(self, value: Any, path: str) -> Any:
        raise NotImplementedError

    def schema(self) -> Schema:
        """What it takes, as JSON Schema; what only Python can give (a PathLike, bytes) is left out."""
        raise NotImplementedError

    def refuse(self, value: object, path: str, wish: str | None = None) -> SpecError:
        return SpecError(path, value, wish or self.wish)


def _convert(value, self, attribute):  # type: ignore[no-untyped-def] # annotations would become __init__'s
    if value is attribute.default:
        return value  # it is what its check would make of it; most of a Spec's fields are not given
    path = f"{self.PLACE}.{attribute.name}" if self.PLACE else attribute.name
    return attribute.metadata["check"](value, path)


_CONVERTER = attrs.Converter(
    _convert, takes_self=True, takes_field=True
)  # one for all: each costs an inspection


def setting(check: Check, default: Any = attrs.NOTHING, *, kw_only: Any = None, eq: Any = True) -> Any:
    """A field of a Spec class, whose values go through `check` under the path ``<class's place>.<field>``.

    `kw_only` None leaves it to the class, in attrs of before 25.4 (where False does) as in later ones.
    """
    return attrs.field(
        default=default, kw_only=kw_only, eq=eq, converter=_CONVERTER, metadata={"check": check}
    )


def built(cls: type[T]) -> type[T]:
    """Gives an attrs class of ``init=False`` the constructor that attrs made for it.

    mypy's plugin would put a signature of its own in the place of ours, unless ``init=False`` keeps it away; and
    classes must stay attrs' own, or `attrs.evolve` would not type-check.
    """
    init: Any = vars(cls)["__attrs_init__"]
    init.__name__, init.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"  # for a TypeError's text
    type.__setattr__(cls, "__init__", init)
    return cls


def changed(value: T, changes: Mapping[str, Any]) -> T:
    """As `attrs.evolve`, without checking again what is not changed: for commands, which are many."""
    cls: Any = type(value)
    result, convert = object.__new__(cls), cast("Any", _convert)
    for attribute in cls.__attrs_attrs__:
        name = attribute.name
        object.__setattr__(result, name, convert(changes[name], value, attribute) if name in changes else getattr(value, name))
    result.__attrs_post_init__()
    return cast("T", result)


def below(path: str, name: object) -> str:
    """The path of what is called `name` in what is at `path`; a name that is no plain word is quoted."""
    if not isinstance(name, str) or not name.isidentifier():
        return f"{path or 'Spec'}[{name!r}]"
    return f"{path}.{name}" if path else name


def nearest(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'memory'?``, or nothing."""
    import difflib  # only errors need it

    found = difflib.get_close_matches(word, known, 1) if isinstance(word, str) and len(word) < 64 else []
    return f"; did you mean {found[0]!r}?" if found else ""


def text(value: object, path: str, wish: str) -> str:
    """A str, bytes or PathLike as str (`os.fsdecode`), without NUL, and sure to encode again."""
    if isinstance(value, bytes) or (not isinstance(value, str) and hasattr(type(value), "__fspath__")):
        value = os.fsdecode(value)  # type: ignore[arg-type]
    if not isinstance(value, str):
        raise SpecError(path, value, wish)
    if "\0" in value:
        raise SpecError(path, value, "a NUL byte would end it early in the kernel; leave it out")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise SpecError(path, value, "it holds characters that no file name or argument can hold") from None
    return str(value)


class Flag(Check):
    """True or False, and nothing that only counts as such."""

    wish = "give True or False"

    def __call__(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise self.refuse(value, path)
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


class Whole(Check):
    """An int from `least` to `most`; no bool, no float, no text."""

    def __init__(self, least: int, most: int, what: str = "a whole number") -> None:
        self.least, self.most = least, most
        self.wish = f"give {what} from {least} to {most}"

    def __call__(self, value: Any, path: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.least <= value <= self.most:
            raise self.refuse(value, path)
        return int(value)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Mode(Whole):
    """Permission bits: an int, or text in octal (``"0644"``), for JSON has no octal numbers."""

    def __init__(self, most: int) -> None:
        super().__init__(0, most)
        self.wish = f"give permission bits up to {most:#o}, such as 0o644 or '0644'"

    def __call__(self, value: Any, path: str) -> int:
        if isinstance(value, str) and re.fullmatch(r"0?o?[0-7]{1,5}", value, re.ASCII):
            value = int(value.removeprefix("0").removeprefix("o") or "0", 8)
        return super().__call__(value, path)

    def schema(self) -> Schema:
        return {"anyOf": [super().schema(), {"type": "string", "pattern": "^0?o?[0-7]{1,5}$"}]}


class Choice(Check):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.wish = (
            f"give {', '.join(map(repr, words[:-1]))} or {words[-1]!r}" if words[1:] else f"give {words[0]!r}"
        )

    def __call__(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise self.refuse(value, path, self.wish + nearest(value, self.words))
        return str(value)

    def schema(self) -> Schema:
        return {"enum": list(self.words)}


class Word(Check):
    """Text that matches a pattern as a whole, of at most `longest` bytes."""

    def __init__(self, pattern: str, wish: str, longest: int = 255) -> None:
        self.pattern, self.longest, self.wish = pattern, longest, wish

    def __call__(self, value: Any, path: str) -> str:
        if (
            not isinstance(value, str)
            or len(value) > self.longest
            or not re.fullmatch(self.pattern, value, re.ASCII)  # compiled at its first use
            or len(text(value, path, self.wish).encode("utf-8", "surrogateescape")) > self.longest
        ):
            raise self.refuse(value, path)
        return str(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.longest}


class Text(Check):
    """Any text without NUL of at most `longest` bytes: str, bytes or PathLike in, str out."""

    def __init__(self, wish: str, longest: int = _PATH_MAX - 1, least: int = 0) -> None:
        self.wish, self.longest, self.least = wish, longest, least

    def __call__(self, value: Any, path: str) -> str:
        result = text(value, path, self.wish)
        if not self.least <= len(os.fsencode(result)) <= self.longest:
            limit = f"it has more than {self.longest} bytes" if len(result) > self.least else self.wish
            raise self.refuse(value, path, limit)
        return result

    def schema(self) -> Schema:
        return {"type": "string", "maxLength": self.longest} | (
            {"minLength": self.least} if self.least else {}
        )


class HostPath(Text):
    """A path on the host, as it was given: relative ones count from the working directory at the start."""

    def __init__(self) -> None:
        super().__init__("give a path as str, bytes or PathLike", least=1)


class InnerPath(Check):
    """A path inside the container: absolute, without "..", and in its shortest spelling afterwards."""

    wish = 'give an absolute path inside the container, without ".."'

    def __init__(self, *, root: bool = False, below: str | None = None) -> None:
        self.root, self.below = root, below
        if below:
            self.wish = f"give a path below {below}"

    def __call__(self, value: Any, path: str) -> str:
        value = text(value, path, self.wish)
        parts = [part for part in value.split("/") if part not in ("", ".")]
        if not value.startswith("/") or ".." in parts:
            raise self.refuse(value, path)
        if not parts and not self.root:
            raise self.refuse(value, path, 'the root itself is set by rootfs; give a path below "/"')
        result = "/" + "/".join(parts)
        if len(os.fsencode(result)) >= _PATH_MAX or any(len(os.fsencode(part)) > _NAME_MAX for part in parts):
            raise self.refuse(
                value, path, f"a path has at most {_PATH_MAX - 1} bytes, each name in it {_NAME_MAX}"
            )
        if self.below and not result.startswith(f"{self.below}/"):
            raise self.refuse(value, path)
        return result

    def schema(self) -> Schema:
        more = "" if self.root else r"[^\0]"
        return {"type": "string", "pattern": f"^{self.below or ''}/{more}", "maxLength": _PATH_MAX - 1}


class Maybe(Check):
    """None, or what another check takes."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, value: Any, path: str) -> Any:
        return None if value is None else self.check(value, path)

    def schema(self) -> Schema:
        return {"anyOf": [self.check.schema(), {"type": "null"}]}


class Each(Check):
    """A list or tuple (never a str) of what another check takes, as a tuple; none of them twice if `unique`."""

    def __init__(
        self, check: Check, what: str, *, least: int = 0, most: int = 65536, unique: bool = False
    ) -> None:
        self.check, self.least, self.most, self.unique = check, least, most, unique
        self.wish = f"give a list of {what}"

    def __call__(self, value: Any, path: str) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, bytearray, memoryview)) or not isinstance(value, Sequence):
            raise self.refuse(value, path)
        if not self.least <= len(value) <= self.most:
            few = (
                f"{self.wish} ({self.least} or more)"
                if len(value) < self.least
                else f"{self.most} are the most"
            )
            raise self.refuse(value, path, few)
        result = tuple(self.check(item, f"{path}[{index}]") for index, item in enumerate(value))
        if self.unique:
            seen = set()
            for index, item in enumerate(result):
                if item in seen:
                    raise self.refuse(item, f"{path}[{index}]", "it is in the list already; name it once")
                seen.add(item)
        return result

    def schema(self) -> Schema:
        size = ({"minItems": self.least} if self.least else {}) | (
            {"uniqueItems": True} if self.unique else {}
        )
        return {"type": "array", "items": self.check.schema()} | size


class Table(Check):
    """A mapping, as a new dict; keys and values each through a check of their own."""

    def __init__(self, key: Check, value: Check, wish: str) -> None:
        self.key, self.value, self.wish = key, value, wish

    def __call__(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(value, path)
        result: dict[str, Any] = {}
        for given, item in value.items():
            key = self.key(given, path)
            if key in result:
                raise self.refuse(given, path, f"it means {key!r}, which is there already")
            result[key] = self.value(item, f"{path}[{key!r}]")
        return result

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.value.schema()}


class A(Check):
    """An object of one of these classes; `schema` refers to their definitions."""

    def __init__(self, *classes: type) -> None:
        self.classes = classes
        names = [cls.__name__ for cls in classes]
        self.wish = f"give a {', '.join(names[:-1])} or {names[-1]}" if names[1:] else f"give a {names[0]}"

    def __call__(self, value: Any, path: str) -> Any:
        if not isinstance(value, self.classes):
            raise self.refuse(value, path)
        return value

    def schema(self) -> Schema:
        refs = [{"$ref": f"#/$defs/{cls.__name__}"} for cls in self.classes]
        return refs[0] if len(refs) == 1 else {"anyOf": refs}

"""Who a command runs as: id maps, users and groups, as numbers or names still to be looked up inside."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ..errors import SpecError
from ..values import Value
from .checks import ID_END, A, Check, Each, Maybe, Schema, Whole, built, setting, text

__all__ = ["IdMap", "UserRef", "covers", "overlap"]

ID = Whole(0, ID_END - 1, "an id")
_NAME = r"[^-\s:/,\x00-\x1f\x7f][^\s:/,\x00-\x1f\x7f]{0,254}"


@built
@frozen(init=False, eq=False, repr=False)
class IdMap(Value):
    """One line of a uid_map or gid_map: `count` ids from `inside` are those from `outside` (user_namespaces(7)).

    Raises SpecError for what reaches 2**32 - 1, which is no id, or beyond.
    """

    PLACE: ClassVar[str] = "IdMap"

    inside: int = setting(ID)
    outside: int = setting(ID)
    count: int = setting(Whole(1, ID_END, "a number of ids"))

    if TYPE_CHECKING:

        def __init__(self, inside: int, outside: int, count: int) -> None: ...

    def __attrs_post_init__(self) -> None:
        for name, first in (("inside", self.inside), ("outside", self.outside)):
            if first + self.count > ID_END:
                raise SpecError(
                    "IdMap.count", self.count, f"{name} ({first}) + count must not pass 2**32 - 1"
                )


def overlap(maps: Iterable[IdMap]) -> str | None:
    """``inside`` or ``outside`` if two of the ranges on that side share an id, else None."""
    ranges = list(maps)
    for side in ("inside", "outside"):
        ordered = sorted((getattr(item, side), item.count) for item in ranges)
        if any(first + count > ordered[i + 1][0] for i, (first, count) in enumerate(ordered[:-1])):
            return side
    return None


def covers(maps: Iterable[IdMap], inside: int) -> bool:
    """Whether the id `inside` stands for anything outside."""
    return any(item.inside <= inside < item.inside + item.count for item in maps)


class _Maps(Each):
    """An id map of at least one line, without overlaps. The kernel takes 340 lines (user_namespaces(7))."""

    def __init__(self) -> None:
        super().__init__(
            A(IdMap), "IdMaps, such as [IdMap(inside=0, outside=100000, count=65536)]", least=1, most=340
        )

    def __call__(self, value: Any, path: str) -> tuple[Any, ...]:
        result = super().__call__(value, path)
        if side := overlap(result):
            raise self.refuse(value, path, f"two of its ranges overlap {side}")
        return result


ID_MAPS = Maybe(_Maps())


@frozen(eq=False, repr=False)
class UserRef(Value):
    """`Spec.user` taken apart: either `uid` or `name`, and either `gid`, `group` or neither."""

    uid: int | None = None
    name: str | None = None  #: to be looked up in the rootfs's own /etc/passwd
    gid: int | None = None
    group: str | None = None  #: to be looked up in the rootfs's own /etc/group


def _number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None


class _Who(Check):
    """A uid or gid below 2**32 - 1, or a name; digits are always the number, as in chown(1)."""

    wish = "give a name, or an id from 0 to 4294967294"

    def __call__(self, value: Any, path: str) -> int | str:
        number = value
        if isinstance(value, str):
            number = _number(value)
            if number is None and not value.isdigit() and re.fullmatch(_NAME, value):
                return text(value, path, self.wish)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < ID_END:
            raise self.refuse(value, path)
        return int(number)

    def schema(self) -> Schema:
        return {"anyOf": [ID.schema(), {"type": "string", "minLength": 1, "maxLength": 255}]}


class _User(_Who):
    """What `_Who` takes, or two of them: ``user:group``."""

    wish = 'give a name, a uid from 0 to 4294967294, "uid:gid" or "name:group"'

    def __call__(self, value: Any, path: str) -> int | str:
        if isinstance(value, str) and ":" in value:
            user, _, group = value.partition(":")
            try:
                return f"{WHO(user, path)}:{WHO(group, path)}"
            except SpecError:
                raise self.refuse(value, path) from None
        return super().__call__(value, path)


WHO = _Who()
USER = Maybe(_User())
GROUPS = Maybe(Each(WHO, "group names or gids", unique=True))  # setgroups(2): NGROUPS_MAX is 65536


def user_ref(user: int | str | None) -> UserRef | None:
    """A normalised `Spec.user` taken apart."""
    if user is None or isinstance(user, int):
        return None if user is None else UserRef(uid=user)
    name, _, group = user.partition(":")
    uid, gid = _number(name), _number(group)
    return UserRef(
        uid=uid, name=name if uid is None else None, gid=gid, group=group if group and gid is None else None
    )

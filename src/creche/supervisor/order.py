"""Which children come before which: the order of starting, and backwards that of stopping, as pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import evolve, frozen

from creche.errors import SpecError


@frozen
class Group:
    """The copies of one ChildSpec, and the groups that come before it.

    Everything before a group is a prefix of the list (for a child which follows all earlier ones) and some more
    (for one that names what it depends on), both closed: what comes before those is in it too. A prefix is one
    number where a set would have two thousand members.
    """

    id: int
    name: str
    listed: bool = True
    """It follows all that stand before it in the list, and names no dependencies of its own."""
    prefix: int = 0
    extra: frozenset[int] = frozenset()
    needs: tuple[int, ...] = ()
    leaving: bool = False

    def follows(self, other: int) -> bool:
        """Whether the group with the id `other` starts before this one and is stopped after it."""
        return other < self.prefix or other in self.extra


def arrange(
    entries: Sequence[tuple[str, tuple[str, ...] | None]],
    present: Iterable[Group] = (),
    first: int = 0,
) -> tuple[Group, ...]:
    """Groups for `(name, depends_on)` in the order of the list, behind those which are `present`,
    with ids from `first` on, which is above all of theirs.

    `depends_on=None` follows every earlier one; a tuple of names follows just these and what they follow, and
    may name later ones too. A SpecError tells of a double or unknown name and of a circle.
    """
    old = {group.name: group for group in present}
    ids: dict[str, int] = {name: group.id for name, group in old.items()}
    for number, (name, _) in enumerate(entries, first):
        if name in ids:
            raise SpecError("children.name", name, "give each child a name of its own")
        ids[name] = number
    wants = dict(entries)
    for name, depends_on in entries:
        for needed in depends_on or ():
            if needed not in ids:
                raise SpecError(
                    "child.depends_on", needed, f"{name}: name another child of the same supervisor"
                )
    done: dict[str, Group] = dict(old)
    for name in _sorted(wants, done):
        depends_on = wants[name]
        if depends_on is None:
            done[name] = Group(ids[name], name, prefix=ids[name])
            continue
        needed_groups = [done[needed] for needed in depends_on]
        prefix = max((group.prefix for group in needed_groups), default=0)
        extra = {group.id for group in needed_groups}.union(*(group.extra for group in needed_groups))
        done[name] = Group(
            ids[name],
            name,
            listed=False,
            prefix=prefix,
            extra=frozenset(number for number in extra if number >= prefix),
            needs=tuple(group.id for group in needed_groups),
        )
    _refuse_knots(done.values())
    return tuple(done[name] for name, _ in entries)


def _sorted(wants: Mapping[str, tuple[str, ...] | None], done: Mapping[str, Group]) -> list[str]:
    """The names so that each comes after those it depends on; a SpecError shows a circle."""
    result: list[str] = []
    placed = set(done)
    for root in wants:
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, left = stack.pop()
            if left:
                path.pop()
                placed.add(name)
                result.append(name)
                continue
            if name in placed:
                continue
            if name in path:
                circle = " -> ".join((*path[path.index(name) :], name))
                raise SpecError("child.depends_on", circle, "break the circle")
            path.append(name)
            stack.append((name, True))
            stack.extend((needed, False) for needed in wants[name] or () if needed not in placed)
    return result


def _refuse_knots(groups: Iterable[Group]) -> None:
    """A child that follows the whole list before it cannot be named, by one of those, as a dependency."""
    by_id = {group.id: group for group in groups}
    for group in by_id.values():
        if group.listed:
            continue
        later = [number for number in group.extra if number > group.id and by_id[number].listed]
        if group.prefix > group.id:
            later.append(group.prefix)
        if later and (knot := by_id.get(later[0])) is not None:
            wish = f"{knot.name} has no depends_on and so waits for all before it: give it depends_on"
            raise SpecError("child.depends_on", f"{group.name} -> {knot.name}", wish)


def leaving(group: Group) -> Group:
    """The group, to be forgotten with its last child."""
    return evolve(group, leaving=True)

"""Who: id maps, users, groups."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec.refusals import refused

from creche.errors import SpecError
from creche.spec import IdMap, Spec, UserRef
from creche.spec.identity import covers, overlap

NO_ID = 2**32 - 1


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ((-1, 0, 1), "IdMap.inside"),
        ((0, -1, 1), "IdMap.outside"),
        ((0, 0, 0), "IdMap.count"),
        ((0, 0, -1), "IdMap.count"),
        ((NO_ID, 0, 1), "IdMap.inside"),
        ((0, 2**32, 1), "IdMap.outside"),
        ((0, 0, 2**32), "IdMap.count"),
        ((0, 1, NO_ID), "IdMap.count"),
        ((1, 0, NO_ID), "IdMap.count"),
        ((NO_ID - 1, 0, 2), "IdMap.count"),
        (("0", 0, 1), "IdMap.inside"),
        ((0, True, 1), "IdMap.outside"),
        ((0, 0, 1.0), "IdMap.count"),
    ],
)
def test_an_id_map_stays_below_the_id_that_is_none(parts: tuple[Any, ...], field: str) -> None:
    refused(lambda: IdMap(*parts), field)


def test_the_largest_id_maps() -> None:
    assert IdMap(0, 0, NO_ID).count == NO_ID
    assert IdMap(NO_ID - 1, 0, 1).inside == NO_ID - 1


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_ranges_must_not_overlap(side: str) -> None:
    first = IdMap(0, 100_000, 10)
    second = IdMap(9, 200_000, 1) if side == "inside" else IdMap(50, 100_009, 5)
    for field in ("uid_map", "gid_map"):
        refused(lambda field=field: Spec(["a"], **{field: [second, first]}), field, f"overlap {side}")
    assert Spec(["a"], uid_map=[first, IdMap(10, 100_010, 5)]).uid_map is not None


@given(st.lists(st.builds(IdMap, st.integers(0, 50), st.integers(0, 50), st.integers(1, 10)), max_size=4))
def test_an_overlap_is_one_by_the_sets_of_ids(maps: list[IdMap]) -> None:
    """Against the plainest model: sets of numbers."""

    def clash(side: str) -> bool:
        numbers = [getattr(item, side) + n for item in maps for n in range(item.count)]
        return len(numbers) != len(set(numbers))

    assert (overlap(maps) is not None) is (clash("inside") or clash("outside"))
    inside = {item.inside + n for item in maps for n in range(item.count)}
    assert all(covers(maps, number) is (number in inside) for number in range(70))


@pytest.mark.parametrize(
    "maps", [(), [(0, 0, 1)], IdMap(0, 0, 1), "0 0 1", [IdMap(n, n, 1) for n in range(341)]]
)
def test_a_map_is_a_list_of_id_maps(maps: Any) -> None:
    with pytest.raises(SpecError, match=r"^uid_map"):
        Spec(["a"], uid_map=maps)


@pytest.mark.parametrize(
    ("user", "normal", "ref"),
    [
        (None, None, None),
        (0, 0, UserRef(uid=0)),
        (NO_ID - 1, NO_ID - 1, UserRef(uid=NO_ID - 1)),
        ("1", 1, UserRef(uid=1)),  # never the user whose *name* is 1: CVE-2016-3697
        ("007", 7, UserRef(uid=7)),
        ("build", "build", UserRef(name="build")),
        ("1:2", "1:2", UserRef(uid=1, gid=2)),
        ("01:02", "1:2", UserRef(uid=1, gid=2)),
        ("build:wheel", "build:wheel", UserRef(name="build", group="wheel")),
        ("build:5", "build:5", UserRef(name="build", gid=5)),
        ("5:wheel", "5:wheel", UserRef(uid=5, group="wheel")),
        ("a.b-c_d$", "a.b-c_d$", UserRef(name="a.b-c_d$")),
        ("jürgen", "jürgen", UserRef(name="jürgen")),
    ],
)
def test_a_user_is_a_number_or_a_name_and_maybe_a_group(user: Any, normal: Any, ref: UserRef | None) -> None:
    spec = Spec(["a"], user=user)
    assert spec.user == normal and type(spec.user) is type(normal)
    assert spec.user_ref == ref


@pytest.mark.parametrize(
    "user",
    [
        "",
        " ",
        -1,
        "-1",
        NO_ID,
        str(NO_ID),
        2**32,
        "9" * 30,
        1.0,
        True,
        b"1",
        ":",
        "1:",
        ":1",
        "a:b:c",
        "a b",
        "-a",
        "a/b",
        "a\n",
        "a,b",
        "\u0661",
        "a\x00",
        "x" * 256,
        f"1:{NO_ID}",
        "\udc80\ud800",
        [],
        object(),
    ],
)
def test_what_is_no_user_is_refused(user: Any) -> None:
    error = refused(lambda: Spec(["a"], user=user), "user")
    assert error.value == user


def test_groups_are_numbers_or_names() -> None:
    assert Spec(["a"], groups=["5", 6, "wheel"]).groups == (5, 6, "wheel")
    assert Spec(["a"], groups=[]).groups == ()
    refused(lambda: Spec(["a"], groups=["5", 5]), "groups[1]", "already")
    refused(lambda: Spec(["a"], groups=[-1]), "groups[0]")
    refused(lambda: Spec(["a"], groups=["a:b"]), "groups[0]")
    refused(lambda: Spec(["a"], groups="wheel"), "groups", "list")


def test_a_number_must_be_somebody_inside() -> None:
    one = [IdMap(0, 1000, 1)]
    assert Spec(["a"], user=0, uid_map=one).user == 0
    refused(lambda: Spec(["a"], user=1, uid_map=one), "user", "uid_map")
    refused(lambda: Spec(["a"], user="0:5", gid_map=one), "user", "gid_map")
    refused(lambda: Spec(["a"], groups=["x", 5], gid_map=one), "groups[1]", "gid_map")
    assert Spec(["a"], user="name:group", groups=["other"], uid_map=one, gid_map=one)  # looked up later

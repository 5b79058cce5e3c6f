"""How much: what each limit takes, and what two of them cannot mean."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from spec.refusals import refused

from creche.spec import Limits, Spec

M = 1 << 20


@pytest.mark.parametrize(
    ("field", "given", "normal"),
    [
        ("memory", "64M", 64 * M),
        ("memory", 64 * M, 64 * M),
        ("memory_high", "1.5G", 1536 * M),
        ("swap", 0, 0),
        ("cpus", 0.5, 0.5),
        ("cpus", 2, 2.0),
        ("cpus", "1.5", 1.5),
        ("cpu_weight", 10_000, 10_000),
        ("pids", 1, 1),
        ("io", {"/srv": {"rbps": "10M", "wiops": 100}}, {"/srv": {"rbps": 10 * M, "wiops": 100}}),
        ("io", {"/srv": {"rbps": None}}, {"/srv": {"rbps": None}}),
        ("io_weight", 1, 1),
        ("cpuset", "0-1,3", "0-1,3"),
        ("cpuset", "3,1,0,2,2", "0-3"),
        ("cpuset", [0, 1, 5], "0-1,5"),
        ("cpuset_mems", "0", "0"),
        ("hugetlb", {"2M": "64M", "1gb": 0}, {"2MB": 64 * M, "1GB": 0}),
        ("oom_group", False, False),
        ("cpu_time", "200ms", 0.2),
        ("cpu_time", 5, 5.0),
    ],
)
def test_a_limit_is_normalised(field: str, given: Any, normal: Any) -> None:
    limits = Limits(**{field: given})
    assert getattr(limits, field) == normal and type(getattr(limits, field)) is type(normal)
    assert bool(limits)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("memory", 0),
        ("memory", -1),
        ("memory", "-1"),
        ("memory", "12 apples"),
        ("memory", 512),  # megabytes were meant
        ("memory", 1e9),
        ("memory", True),
        ("memory", float("inf")),
        ("memory", 2**63),
        ("memory", "max"),
        ("memory_high", 0),
        ("swap", -1),
        ("cpus", 0),
        ("cpus", -0.5),
        ("cpus", float("nan")),
        ("cpus", float("inf")),
        ("cpus", 0.001),  # less than a millisecond in a period of a hundred
        ("cpus", "two"),
        ("cpus", True),
        ("cpus", 1e9),
        ("cpu_period", 999),
        ("cpu_weight", 0),
        ("cpu_weight", 10_001),
        ("cpu_weight", 1.5),
        ("pids", 0),
        ("pids", "3"),
        ("pids", True),
        ("pids", 3.0),
        ("pids", 2**32),
        ("io", {}),
        ("io", []),
        ("io_weight", 0),
        ("cpuset", ""),
        ("cpuset", "a"),
        ("cpuset", "1-0"),
        ("cpuset", "0-99999"),
        ("cpuset", "0,,1"),
        ("cpuset", "-1"),
        ("cpuset", []),
        ("cpuset", 1),
        ("cpuset", b"0"),
        ("hugetlb", {}),
        ("hugetlb", {"2MB": "64M", "2M": 0}),
        ("oom_group", 1),
        ("cpu_time", 0),
        ("cpu_time", -1),
        ("cpu_time", "soon"),
    ],
)
def test_nonsense_is_refused_when_it_is_given(field: str, given: Any) -> None:
    refused(lambda: Limits(**{field: given}), f"limits.{field}")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"io": {"/srv": {"rbpx": 1}}}, "limits.io['/srv'].rbpx"),
        ({"io": {"/srv": {}}}, "limits.io['/srv']"),
        ({"io": {"/srv": {"rbps": "x"}}}, "limits.io['/srv'].rbps"),
        ({"io": {"/srv": {"wiops": "10M"}}}, "limits.io['/srv'].wiops"),
        ({"io": {"/srv": 3}}, "limits.io['/srv']"),
        ({"io": {"": {"rbps": 1}}}, "limits.io"),
        ({"hugetlb": {"2MB": "3M"}}, "limits.hugetlb['2MB']"),
        ({"hugetlb": {"huge": 1}}, "limits.hugetlb"),
        ({"cpuset": [0, "1"]}, "limits.cpuset[1]"),
        ({"memory": "1M", "memory_high": "2M"}, "limits.memory_high"),
        ({"cpu_period": 5000}, "limits.cpu_period"),
        ({"cpus": 0.1, "cpu_period": 5000}, "limits.cpus"),
    ],
)
def test_what_is_deeper_is_named_by_its_path(given: dict[str, Any], field: str) -> None:
    refused(lambda: Limits(**given), field)


def test_limits_are_true_if_any_is_set() -> None:
    assert not Limits()
    for item in attrs.fields(Limits):
        assert getattr(Limits(), item.name) is None
    assert Limits(oom_group=False) and Limits(swap=0)


def test_a_spec_has_limits_always() -> None:
    assert Spec(["a"], limits=None).limits == Limits()
    refused(lambda: Spec(["a"], limits={"memory": "1M"}), "limits", "give a Limits")


def test_a_wish_says_what_to_write() -> None:
    assert '"64M"' in refused(lambda: Limits(memory=0), "limits.memory").wish
    assert "more than the kernel can count" in refused(lambda: Limits(memory=2**63), "limits.memory").wish
    assert "rbps" in refused(lambda: Limits(io={"/srv": {"rbp": 1}}), "limits.io['/srv'].rbp").wish

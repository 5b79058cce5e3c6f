"""What people write as sizes and times, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.errors import SpecError
from creche.units import escaped, format_seconds, format_size, number, seconds, size


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [
        (0, 0),
        (1, 1),
        ("0", 0),
        ("1000", 1000),
        ("64B", 64),
        ("1K", 1024),
        ("1k", 1024),
        ("1KB", 1024),
        ("1KiB", 1024),
        ("64M", 64 << 20),
        ("64 M", 64 << 20),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_size_is_read(given: object, bytes_: int) -> None:
    assert size(given, "f") == bytes_


@pytest.mark.parametrize(
    "given",
    [
        -1,
        "-1",
        1.0,
        True,
        None,
        b"1M",
        "",
        " 1",
        "1 ",
        "M",
        "12 apples",
        "1e6",
        "0x10",
        "1_000",
        "\u0661",  # an Arabic digit, which int() would take
        ".5M",
        "1.M",
        "0.3B",
        "0.0001K",
        "1\n",
        "1" * 41,
        "inf",
        2**63,
        "8192P",
        [],
    ],
)
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(SpecError, match=r"^limits\.memory: ") as caught:
        size(given, "limits.memory")
    assert caught.value.field == "limits.memory"
    assert caught.value.value == given


@pytest.mark.parametrize(
    ("given", "length"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("1.5", 1.5),
        ("2s", 2.0),
        ("200ms", 0.2),
        ("5us", 5e-6),
        ("2m", 120.0),
        ("2 min", 120.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
    ],
)
def test_a_length_of_time_is_read(given: object, length: float) -> None:
    assert seconds(given, "f") == pytest.approx(length)


@pytest.mark.parametrize(
    "given",
    [-1, "-1", True, None, "", "soon", float("nan"), float("inf"), "inf", "1e3", 10**400, b"1", "1 week"],
)
def test_what_is_no_length_of_time_is_refused(given: object) -> None:
    with pytest.raises(SpecError):
        seconds(given, "timeout")


def test_only_an_offset_may_be_negative() -> None:
    assert seconds("-1h", "f", negative=True) == -3600
    assert seconds(-0.5, "f", negative=True) == -0.5


@pytest.mark.parametrize(("given", "value"), [(1, 1.0), ("1.5", 1.5), (0.25, 0.25), ("0", 0.0)])
def test_a_number_is_read(given: object, value: float) -> None:
    assert number(given, "f") == value


@pytest.mark.parametrize("given", [-1, "-1", True, "1,5", "half", float("nan"), None])
def test_what_is_no_number_is_refused(given: object) -> None:
    with pytest.raises(SpecError):
        number(given, "f")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1000, "1000"), (1024, "1K"), (64 << 20, "64M"), (3 << 29, "1536M"), (1_234_567, "1.2M")],
)
def test_a_size_is_shown(count: int, text: str) -> None:
    assert format_size(count) == text


@given(st.integers(0, 2**53), st.sampled_from([1, 1 << 10, 1 << 20, 1 << 30]))
def test_a_size_shown_in_whole_units_is_read_as_itself(count: int, unit: int) -> None:
    whole = min(count * unit, 2**62) // unit * unit
    shown = format_size(whole)
    if "." not in shown:
        assert size(shown, "f") == whole


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 s"),
        (0.00035, "350 µs"),
        (0.0125, "12.5 ms"),
        (1.234, "1.23 s"),
        (125, "2 min 5 s"),
        (10800, "3 h 0 min"),
    ],
)
def test_a_length_of_time_is_shown(length: float, text: str) -> None:
    assert format_seconds(length) == text


@given(st.one_of(st.text(), st.binary()))
def test_a_stranger_s_text_stays_on_its_line(text: str | bytes) -> None:
    assert escaped(text).isprintable()


def test_long_text_keeps_its_end() -> None:
    shown = escaped("a" * 500 + "the end", 20)
    assert shown.endswith("the end'") and len(shown) == 23


def test_escapes_do_not_reach_the_terminal() -> None:
    assert escaped(b"\x1b]52;c;x\x07\xff") == r"'\x1b]52;c;x\x07\\xff'"
    assert "\u202e" not in escaped("\u202etxt")  # a right-to-left override

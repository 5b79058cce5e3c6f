"""Head and tail of a stream, whatever pieces it comes in: without a loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from creche import communicate
from creche.communicate import Collector


def collected(pieces, limit):
    told = []
    collector = Collector(None, limit, lambda: told.append(True))
    for piece in pieces:
        collector.add(piece)
    return collector, told


@given(some.lists(some.binary(max_size=20)), some.one_of(some.none(), some.integers(0, 60)))
def test_head_and_tail_are_what_slices_of_the_whole_are(pieces, limit):
    whole = b"".join(pieces)
    collector, told = collected(pieces, limit)
    if limit is None or len(whole) <= limit:
        assert collector.result() == whole and not collector.truncated and not told
    else:
        front = limit // 2
        assert collector.result() == whole[:front] + whole[len(whole) - (limit - front) :]
        assert collector.truncated and len(told) == 1


@pytest.mark.parametrize("size", [1, 7, 500, 1500])
def test_what_is_held_stays_near_the_bound(size, monkeypatch):
    monkeypatch.setattr(communicate, "PART", 500)
    collector = Collector(None, 1000, None)
    for _ in range(5000 // size + 2):
        collector.add(b"x" * size)
        assert len(collector._head) + len(collector._tail) <= 1000 + 500 + size
    assert len(collector.result()) == 1000

"""Who may have one more connection."""

from hypothesis import given
from hypothesis import strategies as st

from control.api.places import Places


def test_one_address_alone_gets_half_and_a_newcomer_always_finds_room() -> None:
    places = Places(1000)
    got = [sum(not places.take(bytes([who])) for _ in range(2000)) for who in range(5)]
    assert got == [500, 250, 125, 63, 31]
    assert "your address has 500" in places.take(b"\0")
    assert places.take(b"new") == ""


def test_what_ends_makes_room() -> None:
    places = Places(2)
    assert (places.take(b"a"), places.take(b"b")) == ("", "")
    assert places.take(b"c") == "every connection that this API takes is in use"
    places.give(b"b")
    assert places.take(b"c") == ""


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans())))
def test_never_more_than_there_are_and_nothing_is_kept_of_those_who_left(steps: list[tuple[bytes, bool]]) -> None:
    places, held = Places(7), {b"a": 0, b"b": 0, b"c": 0}
    for block, comes in steps:
        if comes and not places.take(block):
            held[block] += 1
        elif not comes and held[block]:
            places.give(block)
            held[block] -= 1
        assert sum(held.values()) <= 7
        assert set(places._by) == {block for block, count in held.items() if count}

"""Failed log-ins: counted per block of addresses, forgiven by time alone."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from health import failures
from health.failures import FREE, MAX_WAIT_S, MOST, Failures, block_of

A, B = b"aaaa", b"bbbb"


def failed(times: int, at: float = 0.0) -> Failures:
    made = Failures()
    for _ in range(times):
        made.add(A, at)
    return made


def test_the_first_are_free_then_the_wait_doubles() -> None:
    waits = [failed(times).wait(A, 0.0) for times in range(FREE + 12)]
    assert waits[: FREE + 1] == [0.0] * (FREE + 1)
    assert waits[FREE + 1 : FREE + 7] == [1, 2, 4, 8, 16, 32]
    assert waits[-1] == MAX_WAIT_S
    assert failed(FREE + 3).wait(B, 0.0) == 0


def test_time_forgives_and_what_is_forgiven_is_not_handed_on() -> None:
    many = failed(3)
    assert list(many.unforgiven(100.0)) == [(A, 3, 0.0)]
    assert list(many.unforgiven(180.0)) == []
    assert many.add(A, 120.0) == 2


def test_what_is_taken_back_never_was() -> None:
    many = failed(FREE + 1)
    many.take_back(A)
    many.take_back(B)
    assert many.wait(A, 0.0) == 0
    for _ in range(FREE):
        many.take_back(A)
    assert len(many) == 0


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.floats(0, 1e9))))
def test_it_stays_small(told: list[tuple[bytes, float]]) -> None:
    kept, failures.ADDRESSES_KEPT = failures.ADDRESSES_KEPT, 16
    try:
        made = Failures()
        for block, count in told:
            made.put(block, count, 0.0)
        assert len(made) <= 16
        assert all(count <= MOST for _, count, _ in made.unforgiven(0.0))
    finally:
        failures.ADDRESSES_KEPT = kept


def test_what_counts_as_one_address() -> None:
    network = [block_of(ip_address(text)) for text in ("2001:db8::1", "2001:db8::ffff:1:2", "2001:db8:0:1::1")]
    assert network[0] == network[1] != network[2]
    assert block_of(ip_address("::ffff:192.0.2.1")) == block_of(ip_address("192.0.2.1")) == b"\xc0\x00\x02\x01"

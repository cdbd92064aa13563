"""Failed log-ins by address: pure."""

from hypothesis import given
from hypothesis import strategies as st

from control.api.slowdown import FREE, MAX_WAIT_S, Slowdown, block_of
from health import failures

A, B = "192.0.2.1", "192.0.2.2"


def failed(times: int, address: str = A, at: float = 0.0) -> Slowdown:
    made = Slowdown()
    for _ in range(times):
        made.failed(address, at)
    return made


def test_the_first_are_free_then_the_wait_doubles() -> None:
    waits = [failed(n).wait(A, "x", 0.0) for n in range(FREE + 12)]
    assert waits[: FREE + 1] == [0.0] * (FREE + 1)
    assert waits[FREE + 1 : FREE + 7] == [1, 2, 4, 8, 16, 32]
    assert waits[-1] == MAX_WAIT_S
    assert failed(FREE + 3).wait(B, "x", 0.0) == 0


def test_time_forgives() -> None:
    many = failed(FREE + 3)
    assert many.wait(A, "x", 3.0) == 1.0
    assert many.wait(A, "x", 4.0) == 0.0
    many.failed(A, 4.0 + 60 * (FREE + 3))
    assert many.wait(A, "x", 4.0 + 60 * (FREE + 3)) == 0.0


def test_a_success_makes_at_home_that_address_with_those_credentials_only() -> None:
    made = Slowdown()
    made.succeeded(A, "right")
    for _ in range(FREE + 1):
        made.failed(A, 0.0)
        made.failed(B, 0.0)
    assert made.wait(A, "right", 0.0) == 0
    assert made.wait(A, "wrong", 0.0) > 0
    assert made.wait(B, "right", 0.0) > 0


def test_credentials_are_not_kept_as_they_are() -> None:
    made = Slowdown()
    made.succeeded(A, "Basic c2VjcmV0")
    made.succeeded(A, "Basic b3RoZXI=")
    assert "c2VjcmV0" not in repr(list(vars(made)["_at_home"]))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60))
def test_it_stays_small(hosts: list[int]) -> None:
    kept, failures.ADDRESSES_KEPT = failures.ADDRESSES_KEPT, 16
    try:
        made = Slowdown()
        for host in hosts:
            made.failed(f"2001:db8:{host >> 16:x}:{host & 0xFFFF:x}::1", 0.0)
            made.succeeded(f"10.0.0.{host % 256}", str(host))
        assert len(made) <= 16
        assert len(vars(made)["_at_home"]) <= 16
    finally:
        failures.ADDRESSES_KEPT = kept


def test_what_counts_as_one_address() -> None:
    assert block_of("2001:db8::1") == block_of("2001:db8::ffff:1:2") != block_of("2001:db8:0:1::1")
    assert block_of("::ffff:192.0.2.1") == block_of(A)
    assert block_of("fe80::1%eth0") == block_of("fe80::2")
    assert len(block_of("x" * 500)) == 64

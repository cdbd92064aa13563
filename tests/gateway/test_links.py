"""Names kept per node."""

from gateway.links import TTL_RANGE_S, NameCache


def test_answers_hold_for_their_ttl_within_bounds() -> None:
    names = NameCache()
    names.put("a.test", ("192.0.2.1",), 0, now=100)
    names.put("b.test", ("192.0.2.2",), 86400, now=100)
    assert names.get("a.test", 100.5) == ("192.0.2.1",)
    assert names.get("a.test", 100 + TTL_RANGE_S[0]) is None
    assert names.get("b.test", 100 + TTL_RANGE_S[1] - 1) == ("192.0.2.2",)
    assert names.get("b.test", 100 + TTL_RANGE_S[1]) is None


def test_the_least_used_name_goes_first() -> None:
    names = NameCache(most=2)
    names.put("a", ("1",), 60, now=0)
    names.put("b", ("2",), 60, now=0)
    names.get("a", 1)
    names.put("c", ("3",), 60, now=1)
    assert names.get("b", 2) is None
    assert names.get("a", 2) == ("1",)
    names.clear()
    assert names.get("a", 2) is None

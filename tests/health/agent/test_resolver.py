import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pycares
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycares import AAAARecordData, ARecordData, CNAMERecordData, DNSRecord

from health.agent.protocol import LOOKUP_FAILED, LOOKUP_TIMEOUT, NOT_FOUND
from health.agent.resolver import MAX_ADDRESSES, Answer, Cache, Channel, Resolver, answer_of
from tests.health.agent.dns_stand_in import DnsStandIn

ONE = Answer(("192.0.2.1",), 30.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DnsStandIn]:
    stand_in = DnsStandIn(("127.0.0.1", 0), tmp_path / "mute")
    yield stand_in
    stand_in.close()


@pytest.fixture
async def channel(server: DnsStandIn) -> AsyncIterator[Channel]:
    opened = Channel((f"127.0.0.1:{server.port}",))
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("name", "family", "addresses", "ttl", "lookup"),
    [
        ("one.test", "inet", {"192.0.2.1", "192.0.2.2"}, 20, ""),
        ("alias.test", "inet", {"192.0.2.1"}, 7, ""),
        ("six.test", "inet6", {"2001:db8::1"}, 30, ""),
        ("six.test", "inet", set(), 0, NOT_FOUND),
        ("empty.test", "inet", set(), 0, NOT_FOUND),
        ("missing.test", "inet", set(), 0, NOT_FOUND),
        ("broken.test", "inet", set(), 0, LOOKUP_FAILED),
    ],
)
async def test_real_questions(
    channel: Channel, name: str, family: str, addresses: set[str], ttl: float, lookup: str
) -> None:
    found = await channel.query(name, family)
    assert (set(found.addresses), found.ttl, found.lookup) == (addresses, ttl, lookup)


async def test_a_server_that_is_not_there_is_a_timeout() -> None:
    channel = Channel(("127.0.0.1:9",))
    assert (await channel.query("one.test", "inet")).lookup == LOOKUP_TIMEOUT
    await channel.close()


class Asked:
    """A stand-in for the tunnel's DNS that counts its calls and answers when told to."""

    def __init__(self, answer: Answer = ONE) -> None:
        self.calls: list[tuple[str, str]] = []
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, name: str, family: str) -> Answer:
        self.calls.append((name, family))
        await self.gate.wait()
        return self.answer


async def test_a_name_is_asked_once_while_its_answer_holds() -> None:
    now, asked = [100.0], Asked()
    resolver = Resolver(asked, lambda: now[0])
    assert await resolver.resolve("One.Test.", "inet") == ONE
    now[0] = 129.0
    assert (await resolver.resolve("one.test", "inet")).ttl == 1.0
    now[0] = 130.0
    await resolver.resolve("one.test", "inet")
    await resolver.resolve("one.test", "inet6")
    assert asked.calls == [("one.test", "inet"), ("one.test", "inet"), ("one.test", "inet6")]


async def test_the_same_question_at_the_same_time_is_asked_once() -> None:
    asked = Asked()
    asked.gate.clear()
    resolver = Resolver(asked, lambda: 0.0)
    asking = [asyncio.ensure_future(resolver.resolve("one.test", "inet")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    asked.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [ONE] * 4
    assert len(asked.calls) == 1


async def test_giving_up_ends_what_is_under_way() -> None:
    asked = Asked()
    asked.gate.clear()
    resolver = Resolver(asked, lambda: 0.0)
    asking = asyncio.ensure_future(resolver.resolve("one.test", "inet"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    resolver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("name", ["", "a\0b", "a b", "x" * 254])
async def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    asked = Asked()
    assert (await Resolver(asked, lambda: 0.0).resolve(name, "inet")).lookup == NOT_FOUND
    assert not asked.calls


@pytest.mark.parametrize("lookup", [LOOKUP_FAILED, LOOKUP_TIMEOUT])
async def test_a_look_up_that_went_wrong_is_not_remembered(lookup: str) -> None:
    asked = Asked(Answer(lookup=lookup))
    resolver = Resolver(asked, lambda: 0.0)
    for _ in range(2):
        assert (await resolver.resolve("one.test", "inet")).lookup == lookup
    assert len(asked.calls) == 2


def test_a_name_that_does_not_exist_is_remembered_shortly() -> None:
    cache = Cache(negative=5)
    cache.put(("x", "inet"), Answer(lookup=NOT_FOUND), 0.0)
    assert cache.get(("x", "inet"), 4.9) is not None
    assert cache.get(("x", "inet"), 5.0) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(-5, 1e9), st.floats(0, 10)), max_size=60))
def test_the_cache_is_bounded_and_never_older_than_told(puts: list[tuple[int, float, float]]) -> None:
    cache, now = Cache(entries=4, longest=300), 0.0
    stored: dict[int, tuple[float, float]] = {}
    for name, ttl, pause in puts:
        now += pause
        kept = cache.put((str(name), "inet"), Answer(("192.0.2.1",), ttl), now)
        stored[name] = (now, kept.ttl)
        assert 0 <= kept.ttl <= 300
        assert len(cache) <= 4
    for name, (since, ttl) in stored.items():
        found = cache.get((str(name), "inet"), now)
        assert found is None or 0 < found.ttl <= since + ttl - now + 1e-6


def test_the_least_used_answer_goes_first() -> None:
    cache = Cache(entries=2)
    for name in ("a", "b"):
        cache.put((name, "inet"), ONE, 0.0)
    assert cache.get(("a", "inet"), 1.0)
    cache.put(("c", "inet"), ONE, 1.0)
    assert cache.get(("b", "inet"), 1.0) is None
    assert cache.get(("a", "inet"), 1.0)
    cache.clear()
    assert len(cache) == 0


def test_addresses_of_an_answer_are_bounded_and_of_one_kind() -> None:
    records = [_record(pycares.QUERY_TYPE_A, ARecordData(f"192.0.2.{n}"), 60) for n in range(50)]
    records += [_record(pycares.QUERY_TYPE_AAAA, AAAARecordData("2001:db8::1"), 1)]
    records += [_record(pycares.QUERY_TYPE_CNAME, CNAMERecordData("x"), 9)]
    found = answer_of(records, pycares.QUERY_TYPE_A)
    assert len(found.addresses) == MAX_ADDRESSES
    assert found.ttl == 9


def _record(kind: int, data: ARecordData | AAAARecordData | CNAMERecordData, ttl: int) -> DNSRecord:
    return DNSRecord(name="x", type=kind, record_class=1, ttl=ttl, data=data)

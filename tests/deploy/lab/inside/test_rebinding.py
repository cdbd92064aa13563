import dns.message
import dns.rdatatype
import pytest

from deploy.lab.inside import rebinding
from deploy.lab.inside.rebinding import Rebinding

NAME = "198-19-10-80.127-0-0-1.a1.rebind.test"


def asked(server: Rebinding, name: str, kind: dns.rdatatype.RdataType = dns.rdatatype.A) -> list[tuple[str, int]]:
    query = dns.message.make_query(name, kind)
    answer = dns.message.from_wire(server.answer(query.to_wire()))
    assert query.is_response(answer)
    return [(str(record), found.ttl) for found in answer.answer for record in found]


def test_the_first_answer_is_one_and_every_later_one_another() -> None:
    server = Rebinding()
    assert asked(server, NAME) == [("198.19.10.80", 1)]
    assert asked(server, NAME) == asked(server, NAME.upper()) == [("127.0.0.1", 1)]
    assert asked(server, NAME.replace("a1", "a2")) == [("198.19.10.80", 1)]


def test_a_question_for_ipv6_has_no_answer_and_does_not_count() -> None:
    server = Rebinding()
    assert asked(server, NAME, dns.rdatatype.AAAA) == []
    assert asked(server, NAME) == [("198.19.10.80", 1)]


@pytest.mark.parametrize("name", ["rebind.test", "198-19-10-80.rebind.test", "a.b.rebind.test", "1-2-3.1-2-3-4.c", "."])
def test_a_name_without_two_addresses_has_none(name: str) -> None:
    assert asked(Rebinding(), name) == []


@pytest.mark.parametrize("cut", [0, 5, 12, 20, -1])
def test_what_is_no_query_is_said(cut: int) -> None:
    with pytest.raises(ValueError, match="not a DNS query"):
        Rebinding().answer(dns.message.make_query(NAME, dns.rdatatype.A, use_edns=False).to_wire()[:cut])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebinding, "NAMES_KEPT", 1)
    server = Rebinding()
    for _ in range(2):
        assert asked(server, NAME.replace("a1", "a2"))
    assert asked(server, NAME) == asked(server, NAME) == [("198.19.10.80", 1)]

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.agent.dns import answered, question, valid_name
from tests.health.agent.dns_stand_in import reply


@pytest.mark.parametrize("name", ["a", "a.b", "one.test.", "_dmarc.x-y.test", "xn--bcher-kva.test", "1.2", "a" * 63])
def test_names_that_can_be_asked_for(name: str) -> None:
    assert valid_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", ".a", "-a", "a-", "a b", "a\0b", "bücher.test", "a" * 64, ".".join(["a" * 49] * 6), "a/b", "٣"],
)
def test_names_that_cannot(name: str) -> None:
    assert not valid_name(name)


def test_a_question_on_the_wire() -> None:
    assert (
        question(0x1234, "one.test") == bytes.fromhex("1234 0100 0001 0000 0000 0000 03") + b"one\x04test\0\0\x01\0\x01"
    )
    assert question(1, "one.test.") == question(1, "one.test")


@given(st.integers(0, 65535), st.sampled_from(["probe.test", "missing.test", "broken.test"]))
def test_any_answer_counts_and_names_its_question(number: int, name: str) -> None:
    asked = question(number, name)
    assert answered(asked) is None
    assert answered(reply(asked)) == number


@given(st.binary(max_size=64))
def test_nonsense_is_no_accident(datagram: bytes) -> None:
    found = answered(datagram)
    assert found is None or 0 <= found <= 65535

"""The tables of directives: what is allowed here is nothing that the exit refuses."""

from control.providers.ovpn import PEM_FILES
from control.providers.ovpn_words import KEPT, LEFT_OUT, PROGRAMS, RENAMED
from health.agent.openvpn_config import refused


def test_every_word_stands_in_one_table() -> None:
    tables = [set(KEPT), set(LEFT_OUT), set(PROGRAMS), set(RENAMED), set(PEM_FILES)]
    assert sum(len(table) for table in tables) == len(set().union(*tables))
    assert set(RENAMED.values()) <= set(KEPT)


def test_what_is_written_is_nothing_that_the_exit_refuses() -> None:
    for word in (*KEPT, *PEM_FILES):
        assert refused(f"{word} x") is None


def test_what_may_start_a_program_here_may_not_there() -> None:
    assert all(refused(f"{word} x") for word in PROGRAMS)

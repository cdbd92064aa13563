from collections.abc import Callable


def test_a_change_of_our_rules_is_noticed_and_no_other(inside: Callable[[str], str]) -> None:
    inside("guard_notices_changes")


def test_rules_that_the_kernel_does_not_take_are_an_error(inside: Callable[[str], str]) -> None:
    assert "nft:" in inside("guard_refuses_nonsense")


def test_whoever_changes_rules_is_noticed_at_once(inside: Callable[[str], str]) -> None:
    inside("changes_are_told_at_once")

from collections.abc import Callable


def test_a_device_lives_as_long_as_its_descriptor(inside: Callable[[str], str]) -> None:
    inside("a_device_lives_as_long_as_its_descriptor")


def test_a_device_for_a_user_stays_and_is_that_users(inside: Callable[[str], str]) -> None:
    inside("a_device_for_a_user_stays")

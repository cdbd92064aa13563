import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sizes import parse_size, shown_size


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1024", 1024),
        ("500kB", 500_000),
        ("500 KB", 500_000),
        ("10MB", 10**7),
        ("10m", 10**7),
        ("1.5GB", 15 * 10**8),
        ("0.1TB", 10**11),
        ("1KiB", 1024),
        ("2gib", 2 * 1024**3),
        (" 7 B ", 7),
    ],
)
def test_sizes_that_are_understood(text: str, amount: int) -> None:
    assert parse_size(text) == amount


@pytest.mark.parametrize("text", ["", "MB", "10 PB", "-1MB", "1,5GB", "10iB", "ten", "1e9", "10MB/s", "9" * 16, "٣MB"])
def test_sizes_that_are_not(text: str) -> None:
    with pytest.raises(ValueError, match="write 500kB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (49_900_000_000, "49.9 GB"),
        (999_999, "1.00 MB"),
        (10**16, "10000 TB"),
    ],
)
def test_shown(amount: int, text: str) -> None:
    assert shown_size(amount) == text


@given(st.integers(0, 10**15))
def test_what_is_shown_can_be_read_and_is_near(amount: int) -> None:
    assert abs(parse_size(shown_size(amount)) - amount) <= amount * 0.005 + 1

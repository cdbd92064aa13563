import pytest

from deploy.lab.inside.check_user import right


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        ("user\npass\n", True),
        ("user\npass", True),
        ("user\npas", False),
        ("user\npass2", False),
        ("User\npass", False),
        ("user\n", False),
        ("", False),
        ("\n\n", False),
    ],
)
def test_only_the_very_credentials_are_right(offered: str, accepted: bool) -> None:
    assert right(offered, "user\npass\n") is accepted

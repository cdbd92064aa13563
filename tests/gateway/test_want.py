import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.want import Want, from_authority, merge, parse_username, parse_want, split_username
from gateway.wire.base import WireError
from health.reasons import Reason


def refused(text: str) -> WireError:
    with pytest.raises(WireError) as caught:
        parse_username(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "user", "want"),
    [
        ("alice", "alice", Want()),
        ("", "", Want()),
        ("a.b_C9", "a.b_C9", Want()),
        ("alice-country-jp", "alice", Want(country="jp")),
        ("alice-country-UK", "alice", Want(country="gb")),
        ("alice-country-zz", "alice", Want(country="zz")),
        (
            "alice-country-jp-city-Tokyo-session-a1B2-ttl-30m-strict",
            "alice",
            Want(country="jp", city="tokyo", session="a1B2", ttl=1800.0, strict=True),
        ),
        ("alice-strict-node-jp3f9a1c", "alice", Want(node="jp3f9a1c", strict=True)),
        ("alice-node-jp3f9a1c-country-jp", "alice", Want(node="jp3f9a1c", country="jp")),
        ("alice-session-strict", "alice", Want(session="strict")),
        ("alice-city-new_york", "alice", Want(city="new_york")),
    ],
)
def test_the_grammar(text: str, user: str, want: Want) -> None:
    assert parse_username(text) == (user, want)


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("30s", 30), ("30m", 1800), ("2h", 7200), ("7d", 604800)])
def test_a_ttl(text: str, seconds: float) -> None:
    assert parse_want(f"session-a-ttl-{text}").ttl == seconds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alice-", "unknown key ''"),
        ("alice--country-jp", "unknown key ''"),
        ("alice-contry-jp", "unknown key 'contry'"),
        ("alice-Country-jp", "unknown key 'Country'"),
        ("alice-jp", "unknown key 'jp'"),
        ("alice-country", "country has no value"),
        ("alice-country-", "country has no value"),
        ("alice-country-jp-country-jp", "country is there twice"),
        ("alice-strict-strict", "strict is there twice"),
        ("alice-strict", "strict keeps a session where it is: give session, too"),
        ("alice-country-jp-strict", "give session, too"),
        ("alice-strict-yes", "unknown key 'yes'"),
        ("alice-country-xx", "unknown country 'xx'"),
        ("alice-country-jpn", "unknown country 'jpn'"),
        ("alice-city-São", "value of city"),
        ("alice-session-a\0b", "value of session"),
        ("alice-session-" + "a" * 65, "value of session"),
        ("alice-node-tokyo", "no node id"),
        ("alice-node-JP3F9A1C", "no node id"),
        ("alice-node-jp3f9a1c-country-us", "node jp3f9a1c is not in country us"),
        ("alice-session-a-ttl-0s", "ttl '0s'"),
        ("alice-session-a-ttl-8d", "ttl '8d'"),
        ("alice-session-a-ttl-30", "ttl '30'"),
        ("alice-session-a-ttl-30M", "ttl '30M'"),
        ("alice-session-a-ttl-1.5h", "ttl '1.5h'"),
        ("alice-session-a-ttl-9999999s", "ttl '9999999s'"),
        ("alice-ttl-30m", "give session"),
        ("alice-session-" + "a-" * 300, "longer than 512"),
    ],
)
def test_a_want_that_is_not_understood_says_why(text: str, says: str) -> None:
    error = refused(text)
    assert error.reason is Reason.BAD_WANT
    assert says in error.detail
    assert error.detail.isprintable()


@pytest.mark.parametrize(
    "text", ["-country-jp", "al ice", "alice\0", "a" * 65, "älice", "alice\n", "alice@x-country-jp"]
)
def test_a_malformed_user_name_is_no_user(text: str) -> None:
    assert refused(text).reason is Reason.AUTH_FAILED


def test_the_user_can_be_had_before_the_want_is_read() -> None:
    assert split_username("alice-what-ever") == ("alice", "what-ever")
    assert split_username("alice") == ("alice", None)
    assert split_username("alice-") == ("alice", "")


@pytest.mark.parametrize(
    ("authority", "country"),
    [
        ("proxy-jp.example.org", "jp"),
        ("proxy-uk.example.org", "gb"),
        ("proxy.example.org", None),
        ("proxy-jp.example.com", None),
        ("proxy-jp.example.org.evil.test", None),
        ("proxy-jp.x.example.org", None),
        ("proxy-jpexample.org", None),
        ("example.org", None),
        (None, None),
    ],
)
def test_a_server_name(authority: str | None, country: str | None) -> None:
    assert from_authority(authority, "example.org") == Want(country=country)
    assert from_authority(authority, None) == Want()


@pytest.mark.parametrize("label", ["proxy-xx", "proxy-jpn", "proxy-"])
def test_a_server_name_with_an_unknown_country_is_refused(label: str) -> None:
    with pytest.raises(WireError, match="unknown country") as caught:
        from_authority(f"{label}.example.org", "example.org")
    assert caught.value.reason is Reason.BAD_WANT


def test_sources_that_agree_add_up() -> None:
    merged = merge(Want(country="jp", session="a"), Want(), Want(country="jp", strict=True), Want(ttl=60.0))
    assert merged == Want(country="jp", session="a", ttl=60.0, strict=True)
    assert merge() == Want()


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (Want(country="jp"), Want(country="us"), ("jp", "us")),
        (Want(city="tokyo"), Want(city="osaka"), ("tokyo", "osaka")),
        (Want(session="a"), Want(session="b"), ("session a", "session b")),
        (Want(node="jp3f9a1c"), Want(country="us"), ("jp3f9a1c", "us")),
        (Want(ttl=60.0), Want(ttl=61.0), ("60", "61")),
    ],
)
def test_sources_that_disagree_are_both_named(one: Want, other: Want, says: tuple[str, str]) -> None:
    for wants in ((one, other), (other, Want(), one)):
        with pytest.raises(WireError) as caught:
            merge(*wants)
        assert caught.value.reason is Reason.BAD_WANT
        assert all(word in caught.value.detail for word in says)


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"\A[a-z]{1,3}(-(country|city|session|ttl|node|strict|jp|us|1h)){0,6}\Z"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        user, want = parse_username(text)
    except WireError as error:
        reason, detail = error.reason, error.detail
    else:
        assert "-" not in user
        assert merge(want, want) == want
        return
    assert reason in (Reason.BAD_WANT, Reason.AUTH_FAILED)
    assert detail.isprintable()

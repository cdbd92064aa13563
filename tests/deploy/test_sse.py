"""Server-sent events, however their lines come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import sse
from deploy.sse import Event, StreamError, parse


def events(text: bytes, last_id: str = "") -> list[Event]:
    return list(parse(text.splitlines(keepends=True), last_id))


def test_events() -> None:
    stream = (
        b': hello\n\nid: 7\nevent: node\ndata: {"a":\ndata:  1}\n\ndata:bare\r\n\r\nevent: empty\n\nid: 9\ndata: cut'
    )
    assert events(stream) == [Event("node", '{"a":\n 1}', "7"), Event("message", "bare", "7")]


def test_ids_last_and_odd_ones_are_left_out() -> None:
    assert events(b"data: a\n\n", "e-5") == [Event("message", "a", "e-5")]
    assert events(b"id: a\0b\ndata: a\n\n", "e-5") == [Event("message", "a", "e-5")]
    assert events(b"id\ndata: a\n\n", "e-5") == [Event("message", "a", "")]
    assert events(b"retry: 10\nnonsense\ndata: \xff\n\n") == [Event("message", "\ufffd")]


def test_bounded() -> None:
    with pytest.raises(StreamError):
        events(b"data: " + b"x" * sse.LONGEST_LINE + b"\n\n")
    line = b"data: " + b"x" * (sse.LONGEST_LINE - 100) + b"\n"
    with pytest.raises(StreamError):
        list(parse([line] * 100))


@given(
    st.lists(st.tuples(st.text("abc", min_size=1), st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"))))
)
def test_what_is_written_is_read(written: list[tuple[str, str]]) -> None:
    lines = [line for kind, data in written for line in (f"event: {kind}\n", f"data: {data}\n", "\n")]
    found = list(parse(line.encode() for line in lines))
    assert [(event.kind, event.data) for event in found] == written

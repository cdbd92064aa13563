"""Records: what is stored, what is refused, what is not shown."""

import json
import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from health.model import (
    NODE_ID,
    Node,
    NodeStatus,
    Pool,
    Record,
    Sample,
    Score,
    Tunnel,
    UnknownSchemaError,
    User,
    new_node_id,
)

NODE: dict[str, Any] = {"id": "jp3f9a1c", "country": "jp", "kind": "vpn", "machine": "m1", "status": "serving"}
RECORDS: list[Record] = [
    Node(**NODE, exit_ip="198.18.0.1", generation=3, started_at=5.5),
    Sample(
        node="jp3f9a1c",
        at=1.5,
        reachable=True,
        tunnel=Tunnel.UP,
        probe_ms=3.25,
        connect_ms=4.5,
        targets={"198.19.10.80:80": 4.5, "103.86.96.100:53": None},
        dns_ok=False,
        exit_country="jp",
        memory_bytes=1,
    ),
    Score(node="jp3f9a1c", at=1.5, value=99.5, healthy=True, terms={"up": 1.0}),
    Pool(country="jp", desired=2, fallback=("us", "gb")),
    User(name="alice", password_hash="$argon2id$x", allowed_countries=("jp",), default_country="jp"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert json.loads(record.dump())["schema"] == 1
    assert type(record).load(record.dump()) == record
    assert type(record).load(record.dump().encode()) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_newer_fields_are_ignored_and_newer_schemas_refused(record: Record) -> None:
    fields = json.loads(record.dump())
    assert type(record).load(json.dumps({**fields, "newer": [1]})) == record
    for schema in (2, 0, "1.1", None):
        with pytest.raises(UnknownSchemaError, match=f"{type(record).__name__} record refused: schema"):
            type(record).load(json.dumps({**fields, "schema": schema}))


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "{", b"\xff", '{"schema":1}'])
def test_what_is_no_record_is_refused(text: str | bytes) -> None:
    with pytest.raises(UnknownSchemaError):
        Node.load(text)


def test_a_refusal_does_not_repeat_what_was_stored() -> None:
    stored = json.dumps({"schema": 1, "name": "alice", "password_hash": ["$argon2id$secret"]})
    with pytest.raises(UnknownSchemaError) as caught:
        User.load(stored)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "change", [{"id": "jp-3f9a1c"}, {"id": "JP3f9a1c"}, {"id": "jp3f9a1c\n"}, {"country": "xx"}, {"status": "fine"}]
)
def test_nodes_that_are_none(change: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Node(**(NODE | change))


@pytest.mark.parametrize(
    "change",
    [
        *({"value": wrong} for wrong in (-1, 100.5, float("nan"))),
        *({"at": float("inf")}, {"latency_ms": -1}, {"terms": {"latency": float("nan")}}),
    ],
)
def test_scores_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Score(**({"node": "jp3f9a1c", "at": 1.0, "value": 5.0, "healthy": True} | change))


@pytest.mark.parametrize("name", ["", "a-b", "a b", "a" * 65, "ä", "a\n"])
def test_user_names_that_are_none(name: str) -> None:
    with pytest.raises(ValidationError):
        User(name=name, password_hash="x")


def test_the_password_hash_is_not_shown() -> None:
    assert "argon2id" not in repr(RECORDS[-1])


def test_countries_are_stored_in_one_spelling() -> None:
    assert Pool(country="UK", fallback=("US",)) == Pool(country="gb", fallback=("us",))


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RECORDS[0].status = NodeStatus.FAILED  # type: ignore[attr-defined]


def test_ended_states() -> None:
    assert {status for status in NodeStatus if status.ended} == {NodeStatus.STOPPED, NodeStatus.FAILED}


def test_new_ids_fit_their_pattern_and_differ() -> None:
    ids = {new_node_id("jp") for _ in range(100)}
    assert len(ids) == 100
    assert all(NODE_ID.fullmatch(i) and re.match("jp", i) for i in ids)


@pytest.mark.parametrize(
    "field",
    [
        *({name: value} for name in ("connect_ms", "jitter_ms", "dns_ms") for value in (-1, 60_001, "nan", 1e400)),
        *({name: value} for name in ("rx_bytes", "memory_bytes") for value in (-1, 1 << 63, 0.5)),
        {"targets": {f"198.18.0.{number}:80": 1.0 for number in range(9)}},
        {"targets": {"198.18.0.1:80": -1.0}},
        {"targets": {"http://example.test/": 1.0}},
        {"exit_country": "nowhere"},
        {"exit_ip": "1" * 46},
        {"cpu_percent": math.inf},
        {"handshake_age_s": 1e300},
        {"loss": 1.01},
    ],
)
def test_a_sample_that_cannot_be_true_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Sample(node="jp3f9a1c", at=1.5, reachable=True, **field)

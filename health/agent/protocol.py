"""The messages between an exit's agent and those who ask it: one JSON datagram each way, on `SOCK_SEQPACKET`.

A request carries an `id` that its answer repeats; pushed messages (`up`, `down`) carry none. Sockets travel beside
their answer as `SCM_RIGHTS` (at most 253 descriptors a message, unix(7); we send at most 200).
"""

import json
from enum import IntEnum
from typing import Any

VERSION = 1
SOCKET_NAME = "agent.sock"
MAX_DATAGRAM = 65536
MAX_SOCKETS = 200
FAMILIES = ("inet", "inet6")
TYPES = ("stream", "dgram")

# Fixed numbers, the same in every container: nothing else runs there under them.
AGENT_UID = 61001
VPN_UID = 61002

# Answers to a `resolve` that found nothing.
NOT_FOUND = "not_found"
LOOKUP_TIMEOUT = "timeout"
LOOKUP_FAILED = "failed"


class Ended(IntEnum):
    """Why an exit container ended: its exit status. The last line of its log says more."""

    STOPPED = 0
    INTERNAL = 1
    CONFIG = 64
    KILL_SWITCH = 65
    NETWORK = 66
    VPN_ENDED = 67
    AGENT_ENDED = 68
    AUTH_FAILED = 69
    TUNNEL_GONE = 70


class ProtocolError(ValueError):
    """A datagram that is not one of ours."""


def encode(message: dict[str, Any]) -> bytes:
    """One datagram. Raises ProtocolError above MAX_DATAGRAM bytes."""
    data = json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode()
    if len(data) > MAX_DATAGRAM:
        raise ProtocolError("message too large")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The message in one datagram. Raises ProtocolError for anything but a version-1 JSON object."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("not an object")
    if message.get("v") != VERSION:
        raise ProtocolError(f"version {message.get('v')!r}, this side speaks {VERSION}")
    return message

"""HTTP/1.x as the gateway speaks it with its clients: the public names of the `http_*` modules in one place."""

from gateway.wire.http_head import MAX_HEAD, Head, parse_head
from gateway.wire.http_reply import connect_response, error_response
from gateway.wire.http_rules import check_framing, forward_headers, response_headers
from gateway.wire.http_target import absolute_target, connect_target, credentials

__all__ = [
    "MAX_HEAD",
    "Head",
    "absolute_target",
    "check_framing",
    "connect_response",
    "connect_target",
    "credentials",
    "error_response",
    "forward_headers",
    "parse_head",
    "response_headers",
]

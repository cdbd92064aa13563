"""Why a connection or a node ended as it did: one enum that feeds replies, metrics, logs and the API.

The wire columns come from RFC 1928 section 6 (SOCKS5 replies), RFC 9110 section 15 (HTTP status codes) and
RFC 9209 section 2.3 (Proxy-Status error types).
"""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Whose fault it was."""

    NONE = "none"
    CLIENT = "client"
    NO_NODE = "no_node"
    NODE = "node"
    TARGET = "target"
    GATEWAY = "gateway"


class Reason(StrEnum):
    """The closed list of outcomes. Safe as a metric label."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    BAD_WANT = "bad_want"
    TOO_LARGE = "too_large"
    NOT_IMPLEMENTED = "not_implemented"
    COMMAND_UNSUPPORTED = "command_unsupported"
    ADDRESS_UNSUPPORTED = "address_unsupported"
    PROXY_HEADER = "proxy_header"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    AUTH_REQUIRED = "auth_required"
    AUTH_FAILED = "auth_failed"
    AUTH_BUSY = "auth_busy"
    AUTH_SLOWED = "auth_slowed"
    CLIENT_FORBIDDEN = "client_forbidden"
    COUNTRY_FORBIDDEN = "country_forbidden"
    CONNECTION_LIMIT = "connection_limit"
    QUOTA_USED = "quota_used"
    TARGET_FORBIDDEN = "target_forbidden"
    OVERLOADED = "overloaded"
    NO_NODE = "no_node"
    NODE_DOWN = "node_down"
    NODE_DIAL = "node_dial"
    NAME_NOT_FOUND = "name_not_found"
    NAME_LOOKUP = "name_lookup"
    REFUSED = "refused"
    HOST_UNREACHABLE = "host_unreachable"
    NETWORK_UNREACHABLE = "network_unreachable"
    TARGET_TIMEOUT = "target_timeout"
    TARGET_PROTOCOL = "target_protocol"
    TARGET_RESET = "target_reset"
    LOOP = "loop"
    CLIENT_RESET = "client_reset"
    NODE_LOST = "node_lost"
    IDLE_TIMEOUT = "idle_timeout"
    LIFETIME = "lifetime"
    SHUTDOWN = "shutdown"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Wire:
    """How one reason looks on each wire."""

    fault: Fault
    http: int
    socks5: int
    proxy_status: str
    text: str


WIRE: dict[Reason, Wire] = {
    Reason.OK: Wire(Fault.NONE, 200, 0x00, "", "done"),
    Reason.BAD_REQUEST: Wire(Fault.CLIENT, 400, 0x01, "http_request_error", "the request is malformed"),
    Reason.BAD_WANT: Wire(Fault.CLIENT, 400, 0x01, "http_request_error", "the wanted exit is not understood"),
    Reason.TOO_LARGE: Wire(Fault.CLIENT, 431, 0x01, "http_request_error", "the request head is too large"),
    Reason.NOT_IMPLEMENTED: Wire(Fault.CLIENT, 501, 0x01, "http_request_error", "this request is not supported"),
    Reason.COMMAND_UNSUPPORTED: Wire(Fault.CLIENT, 501, 0x07, "http_request_error", "only CONNECT is supported"),
    Reason.ADDRESS_UNSUPPORTED: Wire(Fault.CLIENT, 400, 0x08, "http_request_error", "address type not supported"),
    Reason.PROXY_HEADER: Wire(Fault.CLIENT, 400, 0x01, "http_request_error", "PROXY header refused"),
    Reason.HANDSHAKE_TIMEOUT: Wire(Fault.CLIENT, 408, 0x01, "http_request_error", "no complete request in time"),
    Reason.AUTH_REQUIRED: Wire(Fault.CLIENT, 407, 0x02, "http_request_denied", "user name and password required"),
    Reason.AUTH_FAILED: Wire(Fault.CLIENT, 407, 0x02, "http_request_denied", "user name or password is wrong"),
    Reason.AUTH_BUSY: Wire(Fault.CLIENT, 503, 0x01, "proxy_internal_response", "too many log-ins at once, try again"),
    Reason.AUTH_SLOWED: Wire(
        Fault.CLIENT, 429, 0x02, "http_request_denied", "too many failed log-ins from this address, try again later"
    ),
    Reason.CLIENT_FORBIDDEN: Wire(
        Fault.CLIENT, 403, 0x02, "http_request_denied", "this client address may not use the proxy"
    ),
    Reason.CONNECTION_LIMIT: Wire(
        Fault.CLIENT, 429, 0x02, "http_request_denied", "this user has too many connections open"
    ),
    Reason.QUOTA_USED: Wire(
        Fault.CLIENT, 403, 0x02, "http_request_denied", "this user's bytes for the month are used up"
    ),
    Reason.COUNTRY_FORBIDDEN: Wire(
        Fault.CLIENT, 403, 0x02, "http_request_denied", "this user may not use that country"
    ),
    Reason.TARGET_FORBIDDEN: Wire(
        Fault.CLIENT, 403, 0x02, "destination_ip_prohibited", "this target address or port is not allowed"
    ),
    Reason.OVERLOADED: Wire(Fault.NO_NODE, 503, 0x01, "connection_limit_reached", "the gateway is at its limit"),
    Reason.NO_NODE: Wire(Fault.NO_NODE, 503, 0x01, "destination_unavailable", "no exit is serving there now"),
    Reason.NODE_DOWN: Wire(Fault.NODE, 502, 0x01, "proxy_internal_error", "the exit went down"),
    Reason.NODE_DIAL: Wire(Fault.NODE, 502, 0x01, "proxy_internal_error", "the exit could not dial"),
    Reason.NAME_NOT_FOUND: Wire(Fault.TARGET, 502, 0x04, "dns_error", "the target's name does not exist"),
    Reason.NAME_LOOKUP: Wire(Fault.TARGET, 504, 0x04, "dns_timeout", "the target's name could not be resolved"),
    Reason.REFUSED: Wire(Fault.TARGET, 502, 0x05, "connection_refused", "the target refused the connection"),
    Reason.HOST_UNREACHABLE: Wire(Fault.TARGET, 502, 0x04, "destination_ip_unroutable", "the target is unreachable"),
    Reason.NETWORK_UNREACHABLE: Wire(
        Fault.TARGET, 502, 0x03, "destination_ip_unroutable", "the target's network is unreachable"
    ),
    Reason.TARGET_TIMEOUT: Wire(Fault.TARGET, 504, 0x06, "connection_timeout", "the target did not answer in time"),
    Reason.TARGET_PROTOCOL: Wire(Fault.TARGET, 502, 0x01, "http_protocol_error", "the target's answer is malformed"),
    Reason.TARGET_RESET: Wire(Fault.TARGET, 502, 0x01, "connection_terminated", "the target cut the connection"),
    Reason.LOOP: Wire(Fault.TARGET, 502, 0x02, "proxy_loop_detected", "the target leads back to this gateway"),
    Reason.CLIENT_RESET: Wire(Fault.CLIENT, 400, 0x01, "connection_terminated", "the client cut the connection"),
    Reason.NODE_LOST: Wire(Fault.NODE, 502, 0x01, "connection_terminated", "the exit went down"),
    Reason.IDLE_TIMEOUT: Wire(Fault.NONE, 504, 0x06, "connection_read_timeout", "nothing was sent for too long"),
    Reason.LIFETIME: Wire(Fault.NONE, 504, 0x06, "connection_timeout", "the connection was open for too long"),
    Reason.SHUTDOWN: Wire(Fault.NONE, 503, 0x01, "proxy_internal_response", "the gateway is stopping"),
    Reason.INTERNAL: Wire(Fault.GATEWAY, 500, 0x01, "proxy_internal_error", "internal error"),
}

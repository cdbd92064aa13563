"""Carries bytes: listen, read the client's handshake, choose a node, dial through it, relay.

supervisor listening sockets, and the workers on them (`generation`, `child`); restarts without a gap; what they count
           (`metrics`) in sum (`exposition`)
server     a worker: `listener` accepts, `connection_log` writes, drains at the end
front      a PROXY header, then which protocol the client speaks
socks_session, http_session (plain_http)
           speak it; what the bytes mean is decided in `wire`, without I/O
session    who the client is (`auth`) and what it wants (`want`), and how it ended
dial       chooses a node (`pools`: from its `roster`, by `balance`, a session's by `sessions`), resolves and checks the
           target (`targets`), connects through the node's `links`
relay      carries the bytes, on `poller`; `channel` is a socket that can be awaited until then
udp        carries the datagrams of a SOCKS5 association that `udp_session` set up; `destinations` judges where they go
"""

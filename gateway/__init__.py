"""Carries bytes: listen, read the client's handshake, choose a node, dial through it, relay.

supervisor listening sockets, and the workers on them (`generation`, `child`, `start`); restarts without a gap; what all
           count (`metrics`) in sum (`exposition`, `monitor`)
server     a worker: `listener` accepts within its `resources`, `connection_log` tells `line_writer` of them;
           `worker` is what sessions share
front      a PROXY header, then which protocol the client speaks
socks_session, http_session (plain_http, http_exchange)
           speak it, a step for each piece that arrives; what the bytes mean is decided in `wire`, without I/O
session    one client: who it is and what it wants (`identity` from `auth` and `want`), within its `limits`
dial       chooses a node (`pools`: from its `roster`, by `balance`, a session's by `sessions`; `following` keeps it
           fresh), resolves and checks the target (`targets`, `ourselves`), connects with a socket of the node's link
           (`links`, `stock`, `upstream`)
relay      carries the bytes, on `poller`; `channel` is a socket that can be awaited until then; `sweep` looks after
           long tunnels, `deadlines` after what takes too long
udp        carries the datagrams of a SOCKS5 association that `udp_session` set up; `udp_far` is the node's side of it,
           where `destinations` judges where they go
"""

"""What the bytes of a client say. Sans I/O: bytes come in, values and replies go out, no clock, no chance.

`sniff` says which protocol a connection speaks; `proxy_protocol`, `socks` and `http_*` read it; `base` holds what they
share. Every error is a `WireError`, which carries the reason and, where the protocol has one, the reply to send.
"""

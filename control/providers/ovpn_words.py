"""The directives of OpenVPN that a VPN file may hold, openvpn(8), and those that it never may. Pure.

Whatever stands in none of these tables, and is not read by `ovpn` itself, is refused.
"""

_WORD = r"[A-Za-z0-9_.+:@/-]{1,1024}"
_NUMBER = r"[0-9]{1,10}"
_NAME = r"[^\"\\\x00-\x1f]{1,256}"
KEPT = {
    **dict.fromkeys(("auth", "cipher", "data-ciphers", "data-ciphers-fallback"), _WORD),
    **dict.fromkeys(("tls-cipher", "tls-ciphersuites", "tls-groups", "tls-cert-profile"), _WORD),
    "tls-version-min": r"1\.[0-3]( or-highest)?",
    "tls-version-max": r"1\.[0-3]",
    "remote-cert-tls": "server",
    "remote-cert-eku": _NAME,
    "verify-x509-name": rf"{_NAME}( (name|name-prefix|subject))?",
    "comp-lzo": r"(yes|no|adaptive)?",
    "compress": r"(lzo|lz4|lz4-v2|stub|stub-v2|migrate)?",
    "allow-compression": "(no|asym|yes)",
    **dict.fromkeys(("tun-mtu", "fragment", "sndbuf", "rcvbuf", "reneg-bytes", "reneg-pkts", "tran-window"), _NUMBER),
    "mssfix": rf"({_NUMBER}( mtu)?)?",
    "reneg-sec": rf"{_NUMBER}( {_NUMBER})?",
    "replay-window": rf"{_NUMBER}( {_NUMBER})?",
    "key-direction": "[01]",
    "float": "",
    "mute-replay-warnings": "",
}
RENAMED = {"ncp-ciphers": "data-ciphers"}

# What the exit decides by itself, or what says nothing to it.
LEFT_OUT = frozenset(
    """
    auth-nocache auth-retry block-ipv6 block-outside-dns client connect-retry connect-retry-max connect-timeout
    explicit-exit-notify fast-io group hand-window keepalive key-method mute nobind persist-key persist-tun
    ping ping-exit ping-restart ping-timer-rem pull redirect-gateway redirect-private register-dns
    remote-random remote-random-hostname resolv-retry route route-delay route-gateway route-ipv6 route-method
    route-metric server-poll-timeout setenv setenv-safe tls-client tls-exit tls-timeout topology user verb
    """.split()  # noqa: SIM905 - sixty words, one a line, are not easier to read
)
PROGRAMS = frozenset(
    """
    askpass auth-user-pass-verify cd chroot client-connect client-crresponse client-disconnect config daemon
    down engine ipchange iproute learn-address log log-append management pkcs11-providers plugin providers
    route-pre-down route-up script-security status tls-crypt-v2-verify tls-verify tmp-dir up up-restart
    writepid
    """.split()  # noqa: SIM905 - sixty words, one a line, are not easier to read
)

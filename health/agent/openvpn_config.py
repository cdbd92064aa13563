"""Which OpenVPN configurations an exit runs, and the command line it runs them with. Pure."""

import re

from health.agent.nodefile import OPENVPN_UDP
from health.agent.tun import DEVICE

CONFIG = "client.ovpn"
CREDENTIALS = "auth.txt"

# Directives that start programs, load code, write files, read further options or change who OpenVPN runs as.
_REFUSED = {
    "up",
    "down",
    "up-restart",
    "route-up",
    "route-pre-down",
    "ipchange",
    "tls-verify",
    "auth-user-pass-verify",
    "client-connect",
    "client-disconnect",
    "client-crresponse",
    "learn-address",
    "tls-crypt-v2-verify",
    "script-security",
    "plugin",
    "engine",
    "providers",
    "pkcs11-providers",
    "iproute",
    "config",
    "cd",
    "chroot",
    "user",
    "group",
    "setcon",
    "daemon",
    "inetd",
    "log",
    "log-append",
    "syslog",
    "status",
    "writepid",
    "replay-persist",
    "tls-export-cert",
    "tmp-dir",
    "dev-node",
    "mktun",
    "rmtun",
    "askpass",
}
_REFUSED_PREFIX = "management"
_WORD = re.compile(r"[a-z0-9][a-z0-9-]*")
_BLOCK = re.compile(r"<([a-z0-9-]+)>\s*")


def refused(text: str) -> str | None:
    """Why this configuration is not run, or None. Inline files (`<ca>` and the like) are not looked into."""
    block = ""
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip().removeprefix("﻿").split()
        if block:
            block = "" if line.lstrip().startswith(f"</{block}>") else block
            continue
        if not words or words[0][0] in "#;":
            continue
        opened = _BLOCK.fullmatch(line.strip())
        if opened:
            block = "" if opened[1] == "connection" else opened[1]
            continue
        word = _directive(words)
        if word == "/connection":
            continue
        if not _WORD.fullmatch(word):
            return f"{CONFIG} line {number} is not understood"
        if word in _REFUSED or word.startswith(_REFUSED_PREFIX):
            return f"{CONFIG} line {number}: {word} is not allowed"
    return None


def _directive(words: list[str]) -> str:
    if words == ["</connection>"]:
        return "/connection"
    # "setenv opt X" is X (openvpn(8)).
    plain = words[2:] if len(words) > 2 and words[:2] == ["setenv", "opt"] else words
    return plain[0].removeprefix("--")


def command(protocol: str, directory: str, management: str, *, credentials: bool) -> list[str]:
    """The arguments, ours after the configuration's, so that ours count.

    A server's push must not undo them: a pushed `ping-restart 180` would keep a dead tunnel for three minutes.
    """
    farewell = ["--explicit-exit-notify", "1"] if protocol == OPENVPN_UDP else []
    login = ["--auth-user-pass", CREDENTIALS] if credentials else []
    return [
        *("openvpn", "--cd", directory, "--config", CONFIG),
        *("--dev", DEVICE, "--dev-type", "tun", "--disable-dco", "--persist-tun", "--nobind"),
        *("--ifconfig-noexec", "--route-noexec", "--script-security", "0"),
        *login,
        *("--auth-retry", "none"),
        *("--management", management, "unix", "--management-client", "--management-hold"),
        *("--ping", "3", "--ping-restart", "10", "--pull-filter", "ignore", "ping"),
        *("--pull-filter", "ignore", "ifconfig-ipv6", "--pull-filter", "ignore", "route-ipv6"),
        *("--connect-retry", "1", "3", "--connect-timeout", "5", "--tls-timeout", "1", "--hand-window", "20"),
        *farewell,
        *("--verb", "3"),
    ]

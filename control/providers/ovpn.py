"""OpenVPN's configuration files, openvpn(8): what of one an exit runs with. Pure.

A file is not handed on but read and written anew, from a list of what is allowed. What starts programs, loads code or
reads and writes other files is refused, and so is whatever is not known here. The device, addresses, routes, time-outs
and pings are the exit's own business: what a file says of them is left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from control.providers import ProviderError
from control.providers.openvpn import AUTH_FILE
from control.providers.ovpn_lexer import directives
from control.providers.ovpn_words import KEPT, LEFT_OUT, PROGRAMS, RENAMED
from control.providers.pem import login, pem
from control.providers.remotes import Remote, host_of, port_of
from health.agent.nodefile import dns_server

MAX_REMOTES = 64
DEFAULT_PORT = "1194"
PEM_FILES = ("ca", "cert", "key", "extra-certs", "tls-auth", "tls-crypt", "tls-crypt-v2")
_TRANSPORTS = {
    **dict.fromkeys(("udp", "udp4"), "udp"),
    **dict.fromkeys(("tcp", "tcp4", "tcp-client", "tcp4-client"), "tcp"),
}

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_FINGERPRINT = re.compile(r"([0-9A-Fa-f]{2}:?){32}")


@dataclass(frozen=True, slots=True)
class OpenVpnFile:
    """A file that an exit can run with.

    `blocks` are the contents of inline files; `files` names those that stand beside it (directive -> file name), whose
    contents belong there. `login`: user and password that the file itself holds; `login_file`: where it says they are.
    """

    remotes: tuple[Remote, ...]
    lines: tuple[str, ...]
    blocks: dict[str, str] = field(repr=False)
    files: dict[str, str]
    dns: tuple[str, ...] = ()
    needs_login: bool = False
    login: tuple[str, str] | None = field(default=None, repr=False)
    login_file: str = ""


def parse(name: str, text: str) -> OpenVpnFile:
    """Read a file. Raises ProviderError with file and line; never with a secret."""
    reader = _Reader(name)
    for number, words, block in directives(name, text):
        try:
            reader.take(words, block)
        except ValueError as error:
            raise ProviderError(f"{name} line {number}: {error}") from None
    return reader.finished()


def with_files(found: OpenVpnFile, contents: dict[str, str]) -> OpenVpnFile:
    """The same with the files that stand beside it read in (directive -> text). Raises ValueError."""
    return replace(found, files={}, blocks=found.blocks | {word: pem(text) for word, text in contents.items()})


def render(found: OpenVpnFile, remote: Remote, address: str, *, login: bool) -> bytes:
    """The text of client.ovpn for one of its remotes, which has `address`. With `login`, auth.txt stands beside it."""
    head = [
        *("client", "dev tun", f"proto {'udp4' if remote.transport == 'udp' else 'tcp4-client'}"),
        *(f"remote {address} {remote.port}", "nobind", "persist-key", "persist-tun", "auth-retry none", "verb 3"),
    ]
    if login:
        head.append(f"auth-user-pass {AUTH_FILE}")
    blocks = [f"<{word}>\n{content}</{word}>" for word, content in found.blocks.items()]
    return "\n".join([*head, *found.lines, *blocks, ""]).encode()


class _Reader:
    """Takes one directive after the other. `take` raises ValueError."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._remotes: list[tuple[str, str, str]] = []
        self._port = DEFAULT_PORT
        self._proto = "udp"
        self._lines: dict[str, None] = {}
        self._blocks: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._dns: list[str] = []
        self._needs_login = False
        self._login: tuple[str, str] | None = None
        self._login_file = ""

    def take(self, words: Sequence[str], block: str | None) -> None:
        word, rest = words[0], words[1:]
        if block is not None:
            self._take_block(word, block)
        elif word in PROGRAMS or word.startswith("management"):
            raise ValueError(f"{word} is not allowed: a VPN file may not start programs, load code or write files")
        elif word in KEPT or word in RENAMED:
            self._keep(RENAMED.get(word, word), rest)
        elif word in PEM_FILES:
            self._name_file(word, rest)
        elif word not in LEFT_OUT:
            self._special(word, rest)

    def finished(self) -> OpenVpnFile:
        remotes = []
        for host, port, proto in self._remotes:
            try:
                remotes.append(Remote(host_of(host), port_of(port or self._port), _TRANSPORTS[proto or self._proto]))
            except ValueError as error:
                raise ProviderError(f"{self._name}: remote: {error}") from None
        if not remotes:
            raise ProviderError(f"{self._name}: it names no server: a line 'remote HOST PORT' is missing")
        if not {"ca", "peer-fingerprint"} & (self._blocks.keys() | self._files.keys()):
            raise ProviderError(f"{self._name}: nothing in it proves who the server is: ca is missing")
        return OpenVpnFile(
            remotes=tuple(dict.fromkeys(remotes)),
            lines=tuple(self._lines),
            blocks=self._blocks,
            files=self._files,
            dns=tuple(dict.fromkeys(self._dns)),
            needs_login=self._needs_login,
            login=self._login,
            login_file=self._login_file,
        )

    def _keep(self, word: str, rest: Sequence[str]) -> None:
        value = " ".join(rest)
        if not re.fullmatch(KEPT[word], value):
            raise ValueError(f"what stands after {word} is not understood")
        quoted = [f'"{one}"' if re.search(r"[\s#;']", one) else one for one in rest]
        self._lines[" ".join([word, *quoted])] = None

    def _name_file(self, word: str, rest: Sequence[str]) -> None:
        if rest and rest[0] != "[inline]":
            if not _FILE_NAME.fullmatch(rest[0]):
                raise ValueError(f"the file after {word} must stand beside this one, and be named by its name alone")
            self._files[word] = rest[0]
        if word == "tls-auth" and len(rest) > 1:
            self._keep("key-direction", rest[1:])

    def _take_block(self, word: str, block: str) -> None:
        if word in PEM_FILES:
            self._blocks[word] = pem(block)
        elif word == "peer-fingerprint":
            lines = [line.strip() for line in block.splitlines() if line.strip()]
            if not lines or not all(_FINGERPRINT.fullmatch(line) for line in lines):
                raise ValueError("what stands in <peer-fingerprint> is not understood")
            self._blocks[word] = "\n".join(lines) + "\n"
        elif word == "auth-user-pass":
            self._needs_login, self._login = True, login(block)
        else:
            raise ValueError(f"<{word[:32]}> is not supported")

    def _special(self, word: str, rest: Sequence[str]) -> None:
        match word, list(rest):
            case "remote", [host, *more] if len(more) <= 2 and len(self._remotes) < MAX_REMOTES:
                port, proto = [*more, "", ""][:2]
                host_of(host)
                self._remotes.append((host, port and str(port_of(port)), proto and _proto(proto)))
            case "port" | "rport", [port]:
                self._port = str(port_of(port))
            case "proto", [proto]:
                self._proto = _proto(proto)
            case "dev", [device] if re.fullmatch(r"tun[0-9]{0,3}", device):
                pass
            case "dev-type", ["tun"]:
                pass
            case "auth-user-pass", more if len(more) <= 1:
                self._needs_login = True
                if more and more[0] != "[inline]":
                    if not _FILE_NAME.fullmatch(more[0]):
                        raise ValueError("the file after auth-user-pass must stand beside this one")
                    self._login_file = more[0]
            case "dhcp-option", [kind, *more]:
                if kind.upper() == "DNS" and more:
                    self._dns += [dns_server(one) for one in more[:1] if re.fullmatch(r"[0-9.]+", one)]
            case "dns", ["server", _, "address", *more]:
                self._dns += [dns_server(one) for one in more if re.fullmatch(r"[0-9.]+", one)]
            case (("remote" | "port" | "rport" | "proto" | "dev" | "dev-type" | "auth-user-pass"), _):
                raise ValueError(f"what stands after {word} is not understood")
            case _:
                raise ValueError(f"{word[:32]} is not on the list of what is allowed")


def _proto(text: str) -> str:
    if text not in _TRANSPORTS:
        raise ValueError(
            "exits reach servers by IPv4 over udp or tcp" if text[:4] in ("udp6", "tcp6") else "unknown proto"
        )
    return text

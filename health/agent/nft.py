"""Load the kill switch into the kernel, and notice when it is no longer the one that was loaded.

Looking costs one small netlink message: the kernel counts the changes made to its rules (`NFT_MSG_GETGEN`, the same
counter `nft` uses against lost updates). Only when that number moved are the rules themselves listed and compared.
"""

import json
import socket
import struct
import subprocess
from typing import Any

from health.agent.killswitch import TABLE

_NETLINK_NETFILTER = 12  # linux/netlink.h
_GETGEN = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN (linux/netfilter/nf_tables.h)
_GEN_ID = 1  # NFTA_GEN_ID
_REQUEST = struct.pack("=IHHIIBBH", 20, _GETGEN, 1, 0, 0, 0, 0, 0)
_CHANGES = 1 << 6  # the bit of multicast group NFNLGRP_NFTABLES, 7 (linux/netfilter/nfnetlink.h)
_HEADERS = 20  # struct nlmsghdr and struct nfgenmsg


class KillSwitchError(Exception):
    """The kernel did not take the rules, or does not show them."""


class Guard:
    """The kill switch in force in this network namespace. Needs CAP_NET_ADMIN.

    Readable (`fileno`) whenever somebody changed rules here, so that nobody need wait to look: `drain` it, and ask
    whether it is `intact`. Raises KillSwitchError where the kernel does not tell.
    """

    def __init__(self, ruleset: str) -> None:
        self._ruleset = ruleset
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._changes = socket.socket(socket.AF_NETLINK, flags, _NETLINK_NETFILTER)
        try:
            self._changes.bind((0, _CHANGES))
        except OSError as error:
            self._changes.close()
            raise KillSwitchError(f"netlink: {error}") from None
        self._loaded: Any = None
        self._generation = -1
        self._intact = False

    def set(self) -> None:
        """Load the rules. Raises KillSwitchError; then nothing may be started."""
        _nft("-f", "-", text=self._ruleset)
        self._loaded = _listing()
        self._generation = _generation()
        self._intact = True

    def fileno(self) -> int:
        return self._changes.fileno()

    def drain(self) -> None:
        """Take in what the kernel told; the rules themselves say what they are now."""
        try:
            while True:
                self._changes.recv(65536)
        except OSError:
            # Nothing more to read, or more was told than fitted.
            pass

    def close(self) -> None:
        """Stop watching; the rules stay."""
        self._changes.close()

    def intact(self) -> bool:
        """Whether the kernel still holds exactly the rules that were loaded."""
        try:
            generation = _generation()
            if generation != self._generation:
                self._intact = _listing() == self._loaded
                self._generation = generation
        except KillSwitchError:
            self._generation = -1
            self._intact = False
        return self._intact


def _nft(*arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KillSwitchError(f"nft: {error}") from None
    if done.returncode:
        raise KillSwitchError(f"nft: {done.stderr.strip()[:300]}")
    return done.stdout


def _listing() -> Any:
    listed = json.loads(_nft("-j", "list", "table", "inet", TABLE))
    return [_without_handles(item) for item in listed["nftables"] if "metainfo" not in item]


def _without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_handles(part) for key, part in value.items() if key != "handle"}
    return [_without_handles(part) for part in value] if isinstance(value, list) else value


def _generation() -> int:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
            netlink.settimeout(1)
            netlink.send(_REQUEST)
            return _attribute(netlink.recv(4096))
    except OSError as error:
        raise KillSwitchError(f"netlink: {error}") from None


def _attribute(answer: bytes) -> int:
    offset = _HEADERS
    while offset + 8 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, offset)
        if kind & 0x3FFF == _GEN_ID:
            return int.from_bytes(answer[offset + 4 : offset + 8], "big")
        offset += max(4, length + 3 & ~3)
    raise KillSwitchError("netlink: no generation in the answer")

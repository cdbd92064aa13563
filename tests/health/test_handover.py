"""Descriptors from a message. Sockets of another namespace, which need root, are in test_agent_client."""

import os
import socket
import struct

import pytest

from health.handover import HandoverError, adopt, close_all, own_netns_cookie, received


def test_received_reads_rights_and_nothing_else() -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("3i", 5, 6, 7))
    other = (socket.SOL_SOCKET, 2, struct.pack("i", 9))  # SCM_CREDENTIALS
    cut = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 8) + b"\x01\x02")
    assert received([rights, other, cut]) == [5, 6, 7, 8]
    assert received([]) == []


def test_all_are_closed() -> None:
    ends = list(os.pipe())
    close_all(ends)
    for end in ends:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


@pytest.mark.parametrize("kind", ["own namespace", "datagram", "unix", "pipe"])
def test_what_is_refused_is_closed_and_so_is_the_rest(kind: str) -> None:
    ends = os.pipe()
    first = {
        "own namespace": lambda: socket.socket().detach(),
        "datagram": lambda: socket.socket(type=socket.SOCK_DGRAM).detach(),
        "unix": lambda: socket.socket(socket.AF_UNIX).detach(),
        "pipe": lambda: os.dup(ends[0]),
    }[kind]()
    close_all(list(ends))
    fds = [first, socket.socket().detach()]
    with pytest.raises(HandoverError):
        adopt(fds, socket.AF_INET, socket.SOCK_STREAM)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_the_cookie_is_one_for_all_sockets_of_a_namespace() -> None:
    assert own_netns_cookie() == own_netns_cookie() != bytes(8)

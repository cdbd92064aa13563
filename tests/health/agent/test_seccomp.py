import fcntl
import os
import platform
import socket
import struct
from collections.abc import Callable

import pytest

from health.agent.seccomp import apply, mtu_filter

SIOCGIFMTU, SIOCSIFMTU, SIOCSIFFLAGS = 0x8921, 0x8922, 0x8914


def in_child(work: Callable[[], bytes]) -> bytes:
    """What `work` returns in a child that is under the filter and has no right to change an interface."""
    program = mtu_filter(platform.machine())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            apply(program)
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as file:
        return file.read()


def request(number: int, value: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, number, struct.pack("16si12x", b"lo", value))
        except OSError as error:
            return f"errno {error.errno}".encode()
    return str(struct.unpack("16si12x", answer)[1]).encode()


def test_setting_an_mtu_seems_to_work_and_changes_nothing() -> None:
    before = in_child(lambda: request(SIOCGIFMTU, 0))
    assert in_child(lambda: request(SIOCSIFMTU, 1000)) == b"1000"
    assert in_child(lambda: request(SIOCGIFMTU, 0)) == before != b"1000"


def test_every_other_call_is_what_it_was() -> None:
    assert in_child(lambda: request(SIOCSIFFLAGS, 0)) == b"errno 1"


def test_a_machine_without_known_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="mips"):
        mtu_filter("mips")
    assert len(mtu_filter("aarch64")) == 64

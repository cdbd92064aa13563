import array
import os
import resource
import socket

import pytest

from health.agent.handover import RefusedError, made, rights


def test_sockets_are_closed_on_leaving() -> None:
    with made("inet", "stream", 3) as descriptors:
        assert len(descriptors) == 3
        for descriptor in descriptors:
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
            assert not os.get_blocking(descriptor)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.dup(descriptor)


@pytest.mark.parametrize(
    ("family", "kind", "count"),
    [("inet", "stream", 0), ("inet", "stream", 201), ("inet", "raw", 1), ("unix", "stream", 1), (None, None, None)],
)
def test_what_cannot_be_asked_for(family: object, kind: object, count: object) -> None:
    with pytest.raises(RefusedError), made(family, kind, count):
        pass


def test_when_descriptors_run_out_none_is_kept() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    limit = sorted(set(range(len(used) + 20)) - used)[19] + 1  # twenty numbers are free below it
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(RefusedError, match="no sockets: "), made("inet", "dgram", 200):
            pass
        with made("inet", "dgram", 5) as descriptors:
            assert len(descriptors) == 5
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_rights() -> None:
    assert rights([]) == []
    assert rights([3, 4]) == [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3, 4]).tobytes())]

import os
import selectors
import signal
from collections.abc import Iterator

import pytest

from health.agent.wake import Wake


@pytest.fixture
def wake() -> Iterator[Wake]:
    opened = Wake()
    yield opened
    opened.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait(wake: Wake) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(wake.reader, selectors.EVENT_READ)
        assert selector.select(5)
    wake.note()


def test_the_end_of_a_child_wakes_but_does_not_stop(wake: Wake) -> None:
    wake.note()
    assert not wake.noted()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait(wake)
    os.waitpid(pid, 0)
    assert wake.noted()
    assert not wake.noted()
    assert not wake.stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_being_asked_to_stop(wake: Wake, number: int) -> None:
    os.kill(os.getpid(), number)
    wait(wake)
    assert wake.stopped
    assert wake.noted()

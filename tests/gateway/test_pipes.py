"""Pipes are bounded, and used again."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from fcntl import F_GETPIPE_SZ, fcntl

import pytest

from gateway.pipes import PIPE_SIZE, PipePool


@pytest.fixture
def pool() -> Iterator[PipePool]:
    with ExitStack() as stack:
        made = PipePool(limit=1)
        stack.callback(lambda: [os.close(end) for pipe in made._free for end in pipe])
        yield made


def test_pipes_are_bounded_and_used_again(pool: PipePool) -> None:
    pipe = pool.take()
    assert pipe is not None
    assert fcntl(pipe[0], F_GETPIPE_SZ) == PIPE_SIZE
    assert pool.take() is None
    pool.give_back(pipe)
    assert pool.take() == pipe
    pool.discard(pipe)
    again = pool.take()
    assert again is not None
    pool.give_back(again)

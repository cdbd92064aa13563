"""The clock beside a server's."""

import email.utils
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy.doctor import clock
from deploy.doctor.clock import Seen
from deploy.doctor.model import Result


class Server(HTTPServer):
    date = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response_only(405)
        if self.server.date:
            self.send_header("Date", self.server.date)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(5)


@pytest.mark.parametrize(
    ("skew", "result", "said"),
    [(0, Result.OK, "within"), (3600, Result.FAILED, "ahead of"), (-3600, Result.FAILED, "behind")],
)
def test_a_server_that_says_another_time(server: Server, skew: int, result: Result, said: str) -> None:
    server.date = email.utils.formatdate(time.time() - skew, usegmt=True)
    (finding,) = clock.judge(clock.look(f"http://127.0.0.1:{server.server_port}/", 5.0))
    assert finding.result is result
    assert said in finding.reason
    assert ("timedatectl" in finding.mend) == (result is Result.FAILED)


@pytest.mark.parametrize("date", ["", "yesterday", "\u00fc"])
def test_a_server_that_says_nothing(server: Server, date: str) -> None:
    server.date = date
    (finding,) = clock.judge(clock.look(f"http://127.0.0.1:{server.server_port}/", 5.0))
    assert finding.result is Result.SKIPPED


def test_nobody_there() -> None:
    (finding,) = clock.judge(clock.look("http://127.0.0.1:1/", 1.0))
    assert finding.result is Result.SKIPPED


def test_a_slow_answer_is_no_skew() -> None:
    (finding,) = clock.judge(Seen("slow", theirs=1000.0, ours=1031.0, unsure=3.0))
    assert finding.result is Result.OK
    (finding,) = clock.judge(Seen("quick", theirs=1000.0, ours=1032.0, unsure=0.5))
    assert (finding.result, finding.reason) == (Result.FAILED, "32 s ahead of quick")

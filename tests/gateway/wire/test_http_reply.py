import http.client
import io

import pytest

from gateway.wire.http_reply import MAX_DETAIL, connect_response, error_response, sf_string
from health.reasons import WIRE, Reason


class _Given:
    """What http.client reads a response from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read(data: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(_Given(data), method=method)  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


def test_the_answer_to_connect_tells_the_exit_and_frames_no_body() -> None:
    exit_ = b"HTTP/1.1 200 Connection established\r\nX-Exit-Node: jp3f9a1c\r\nX-Exit-Country: jp\r\n"
    assert connect_response("jp3f9a1c", "jp", "4f00") == exit_ + b"X-Request-Id: 4f00\r\n\r\n"
    moved = connect_response("jp3f9a1c", "jp", "4f00", "jp000001")
    assert moved == exit_ + b"X-Exit-Moved: jp000001\r\nX-Request-Id: 4f00\r\n\r\n"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_every_reason_gives_a_whole_answer(reason: Reason) -> None:
    response, body = read(error_response(reason, "say it"))
    assert response.status == WIRE[reason].http
    assert response.getheader("Connection") == "close"
    assert response.getheader("Content-Length") == str(len(body))
    assert response.getheader("Proxy-Status") == f'vpnexit; error={WIRE[reason].proxy_status}; details="say it"'
    assert body.decode().splitlines()[1] == f"{WIRE[reason].text}: say it"
    challenge = response.getheader("Proxy-Authenticate")
    assert (challenge == 'Basic realm="vpnexit", charset="UTF-8"') == (response.status == 407)


def test_an_answer_without_detail() -> None:
    response, body = read(error_response(Reason.NO_NODE))
    assert response.getheader("Proxy-Status") == "vpnexit; error=destination_unavailable"
    assert body == b"503 Service Unavailable\nno exit is serving there now\n"


def test_the_answer_to_head_has_no_body() -> None:
    whole = error_response(Reason.NO_NODE, "x")
    assert whole.startswith(error_response(Reason.NO_NODE, "x", head_only=True))
    assert error_response(Reason.NO_NODE, "x", head_only=True).endswith(b"\r\n\r\n")


def test_no_detail_can_add_a_line() -> None:
    answer = error_response(Reason.BAD_WANT, 'a\r\nX-Evil: "1"\0ü', [("X-Note", "b\r\nX-Evil: 2")])
    response, body = read(answer)
    assert response.getheader("X-Evil") is None
    assert response.getheader("Proxy-Status") == r'vpnexit; error=http_request_error; details="a??X-Evil: \"1\"??"'
    assert response.getheader("X-Note") == "b??X-Evil: 2"
    assert "ü" in body.decode()


def test_a_detail_is_bounded() -> None:
    assert len(error_response(Reason.BAD_WANT, "x" * 100_000)) < 3 * MAX_DETAIL


def test_structured_strings() -> None:
    assert sf_string('a "b" \\ c') == r'"a \"b\" \\ c"'

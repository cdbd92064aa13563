"""The endpoint of speed tests: does it give what they download? Asked from this machine, not through a node."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from deploy.doctor.model import Finding, failed, ok

NAME = "speed endpoint"
TIMEOUT_S = 5.0
READ = 65_536


@dataclass(frozen=True, slots=True)
class Seen:
    """What came: a status, the type of the content and its first bytes; or `fault`, why nothing did."""

    server: str
    status: int = 0
    content_type: str = ""
    got: int = 0
    fault: str = ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def look(url: str, timeout: float = TIMEOUT_S) -> Seen:
    """Ask for the download, and hang up after its first bytes."""
    server = urlsplit(url).netloc
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(url, timeout=timeout) as response:
            return Seen(server, response.status, response.headers.get_content_type(), len(response.read(READ)))
    except urllib.error.HTTPError as error:
        with error:
            return Seen(server, error.code)
    except urllib.error.URLError as error:
        return Seen(server, fault=str(error.reason))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Seen(server, fault=str(error) or type(error).__name__)


def judge(seen: Seen) -> Iterator[Finding]:
    fault = _fault(seen)
    if not fault:
        yield ok(NAME, f"{seen.server} gives the download (the upload is not tried)")
        return
    yield failed(
        NAME,
        f"{seen.server} {fault}",
        "Speed tests will fail, unless it is this machine alone that gets no download.",
        "name one that gives it: speed_test.download_url (redirects are not followed)",
    )


def _fault(seen: Seen) -> str:
    if seen.fault:
        return f"does not answer: {seen.fault}"
    if seen.status != http.client.OK:
        return f"answers {seen.status}"
    if seen.content_type == "text/html":
        return "answers with an HTML page"
    return "" if seen.got == READ else f"sends {seen.got:,} bytes and no more"

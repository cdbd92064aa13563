"""The clock, beside that of an HTTP server: certificates, VPN handshakes and monthly limits need it right."""

import email.utils
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from deploy.doctor.model import Finding, failed, ok, skipped

MOST_SKEW_S = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """`theirs` is the server's Date in Unix seconds, None where it gave none; `ours` the time here meanwhile."""

    server: str
    theirs: float | None
    ours: float = 0.0
    unsure: float = 0.0
    """Half the time the answer took, and half the second that Date leaves out; seconds."""


def look(url: str, timeout: float) -> Seen:
    server = urlsplit(url).netloc
    began, clock = time.monotonic(), time.time()
    date = _date(url, timeout)
    took = time.monotonic() - began
    return Seen(server, date, clock + took / 2, took / 2 + 0.5)


def judge(seen: Seen) -> Iterator[Finding]:
    if seen.theirs is None:
        yield skipped("clock", f"{seen.server} did not say what time it is (--online asks the provider)")
        return
    skew = seen.ours - (seen.theirs + 0.5)
    if abs(skew) - seen.unsure <= MOST_SKEW_S:
        yield ok("clock", f"within {max(1, round(abs(skew))):.0f} s of {seen.server}")
        return
    yield failed(
        "clock",
        f"{abs(skew):.0f} s {'before' if skew > 0 else 'behind'} {seen.server}".replace("before", "ahead of"),
        "Certificates seem to be expired or not valid yet, and WireGuard servers refuse handshakes.",
        "timedatectl set-ntp true (or `apt install systemd-timesyncd`), then see `timedatectl`",
    )


def _date(url: str, timeout: float) -> float | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, method="HEAD"), timeout=timeout) as response:  # noqa: S310
            text = response.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        with error:
            text = error.headers.get("Date", "")  # any answer has the time
    except (OSError, ValueError, http.client.HTTPException):
        return None
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None

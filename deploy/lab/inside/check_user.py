"""OpenVPN's `auth-user-pass-verify … via-file`: the service credentials in `/lab/credentials` are right, no others."""

import hmac
import sys
from pathlib import Path

CREDENTIALS = Path("/lab/credentials")


def right(offered: str, wanted: str) -> bool:
    """Both texts are two lines, user and password."""
    return hmac.compare_digest("\n".join(offered.split("\n")[:2]).encode(), wanted.rstrip("\n").encode())


if __name__ == "__main__":
    sys.exit(0 if right(Path(sys.argv[1]).read_text(), CREDENTIALS.read_text()) else 1)

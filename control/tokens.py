"""API tokens: how one is made, what of it is kept, and how an offered one is judged.

Pure but for `secrets`. The secret is 256 bits of chance, so a plain SHA-256 is enough to keep (there is nothing to
guess by dictionary), and it names its own record, so that only one has to be looked up.
"""

import hashlib
import hmac
import re
import secrets

from health.model import Scope, Token

_SECRET = re.compile(r"vx_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


def new_token(name: str, scope: Scope, now: float, ttl: float | None = None) -> tuple[Token, str]:
    """A fresh token and its secret (`vx_<id>_<43 characters>`), which is kept nowhere.

    `now` is Unix seconds; the token is good for `ttl` seconds, None: until it is removed.
    """
    token_id = secrets.token_hex(6)
    secret = f"vx_{token_id}_{secrets.token_urlsafe(32)}"
    ends = None if ttl is None else now + ttl
    made = Token(id=token_id, name=name, scope=scope, sha256=_digest(secret), created_at=now, expires_at=ends)
    return made, secret


def id_in(secret: str) -> str:
    """The id that an offered secret names; empty where it has not the form of one."""
    found = _SECRET.fullmatch(secret)
    return found[1] if found else ""


def matches(token: Token, secret: str) -> bool:
    """Whether `secret` is that of `token`, in constant time."""
    return hmac.compare_digest(token.sha256, _digest(secret))


def expired(token: Token, now: float) -> bool:
    """Whether `token` is worth nothing any more. `now` is Unix seconds."""
    return token.expires_at is not None and now >= token.expires_at


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

"""Certificates, keys and passwords as texts that are safe to write into a configuration file. Pure."""

import re

_BEGIN = re.compile(r"-----BEGIN ([A-Za-z0-9 ]{1,40})-----")
_BODY = re.compile(r"[A-Za-z0-9+/=]{0,128}")


def pem(text: str) -> str:
    """The PEM parts of a text, without what stands between them. Raises ValueError: none, or one with a password."""
    found: list[str] = []
    label = ""
    for line in (raw.strip() for raw in text.splitlines()):
        begins = _BEGIN.fullmatch(line)
        if label:
            if line == f"-----END {label}-----":
                label = ""
            elif line.startswith(("Proc-Type:", "DEK-Info:")):
                raise ValueError("the key has a password, and nobody is there to type it")
            elif not line or line.startswith("#"):
                continue
            elif not _BODY.fullmatch(line):
                raise ValueError(f"what stands in {label[:40]} is not understood")
            found.append(line)
        elif begins:
            label = begins[1]
            if "ENCRYPTED" in label:
                raise ValueError("the key has a password, and nobody is there to type it")
            found.append(line)
    if label or not found:
        raise ValueError("no certificate or key is in it")
    return "\n".join(found) + "\n"


def login(text: str) -> tuple[str, str]:
    """User and password, a line each. Raises ValueError."""
    lines = [line.strip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if len(lines) < 2 or not lines[0].strip() or not lines[1].strip() or any(line.strip() for line in lines[2:]):
        raise ValueError("two lines are expected: the user, then the password")
    user, password = lines[0].strip(), lines[1].strip()
    if not (user + password).isprintable() or max(len(user), len(password)) > 255:
        raise ValueError("user and password are printable, and 255 characters at most")
    return user, password

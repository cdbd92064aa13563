"""Whether the password of somebody's proxy stands where the gateways read it. Looks, and never takes it in."""

from pathlib import Path

from health import upstream


def lacking(directory: Path, url: str) -> str:
    """What is to be done before the proxy at `url` can be used, or an empty string. Blocks.

    A file that may not be read is somebody else's, the gateway's for example: nothing is wrong with it from here.
    """
    parsed = upstream.parse(url)
    file = directory / parsed.authority
    if parsed.user is None:
        return ""
    try:
        if file.stat().st_size:
            return ""
        what = "is empty"
    except PermissionError:
        return ""
    except OSError:
        what = "is missing"
    return f"not used: the file with its password {what}, {file}; put it there, in the first line"

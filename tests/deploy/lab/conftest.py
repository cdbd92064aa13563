"""What the lab's tests need of the machine; with CI=true a missing part is a failure."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Tests that use this make network namespaces and load nft rules in them."""
    missing = [program for program in ("unshare", "nsenter", "ip", "nft", "iptables") if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"network namespaces need {', '.join(missing)}")
    if missing:
        pytest.skip(f"network namespaces need {', '.join(missing)}")

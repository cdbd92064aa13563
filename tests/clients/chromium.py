"""Chromium without a screen, driven over its DevTools protocol: open a page through a proxy and read what it shows."""

import base64
import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import connect

from deploy.processes import tie_to_parent
from tests.gateway.harness import wait_for

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--remote-debugging-port=0",
    # The tests' own certificate authority is in no store that Chromium reads.
    "--ignore-certificate-errors",
)
TEXT = """new Promise((done) => {
    const tell = () => done(document.body.innerText)
    document.readyState === "complete" ? tell() : addEventListener("load", tell)
})"""
START_S = 60
STEP_S = 40


class Chromium:
    """One browser with an empty profile, and one tab of it. Use as a context manager."""

    def __init__(self, profile: Path, proxy: str, *flags: str) -> None:
        self.credentials: tuple[str, str] | None = None
        self.asked = 0
        self._number = 0
        self._session = ""
        with contextlib.ExitStack() as stack:
            devtools = _started(stack, profile, f"--proxy-server={proxy}", *flags)
            self._socket = stack.enter_context(connect(devtools, max_size=2**24, proxy=None))
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime"):
                self._call(f"{domain}.enable")
            self._call("Fetch.enable", handleAuthRequests=True)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, url: str) -> str:
        """Go to `url` and return the text that the page shows, or Chromium's name for the error.

        `credentials` are what the proxy is told, once; a proxy that asks again gets none. `asked` counts.
        """
        self.asked = 0
        error = self._call("Page.navigate", url=url).get("errorText", "")
        return error or str(self.run(TEXT))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        number = self._send(method, params)
        while True:
            message = json.loads(self._socket.recv(STEP_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self._react(message)

    def _send(self, method: str, params: dict[str, object]) -> int:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        return self._number

    def _react(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Fetch.requestPaused":
            self._send("Fetch.continueRequest", {"requestId": event["params"]["requestId"]})
        elif event.get("method") == "Fetch.authRequired":
            self.asked += 1
            assert event["params"]["authChallenge"]["source"] == "Proxy"
            answer = {"response": "CancelAuth"}
            if self.credentials is not None and self.asked == 1:
                user, password = self.credentials
                answer = {"response": "ProvideCredentials", "username": user, "password": password}
            request = event["params"]["requestId"]
            self._send("Fetch.continueWithAuth", {"requestId": request, "authChallengeResponse": answer})


def _started(stack: contextlib.ExitStack, profile: Path, *flags: str) -> str:
    """Start Chromium, to be ended by `stack`; where its DevTools listen."""
    profile.mkdir()
    here = os.getpid()
    log = stack.enter_context((profile.parent / f"{profile.name}.log").open("wb"))
    process = subprocess.Popen(
        ["chromium", *FLAGS, f"--user-data-dir={profile}", *flags, "about:blank"],
        stdout=log,
        stderr=log,
        preexec_fn=lambda: tie_to_parent(here),  # noqa: PLW1509
    )
    stack.callback(_end, process)
    told = profile / "DevToolsActivePort"
    wait_for(lambda: told.exists() and told.read_text().count("\n") == 1, START_S, "Chromium")
    port, path = told.read_text().split("\n")
    return f"ws://127.0.0.1:{port}{path}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    finally:
        process.kill()
        process.wait()

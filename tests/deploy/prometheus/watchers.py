"""Real Prometheus and Alertmanager over the shipped files, and a webhook that hears what Alertmanager says.

What a test changes of the shipped files is who is scraped (`targets/`), the tokens, the webhook's address and, where
it is in a hurry, how long Alertmanager gathers warnings before it tells them.
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy import ports
from health.process import tie_to_parent

DEPLOY = Path(__file__).parents[3] / "deploy"
TOKEN = "webhook-token-of-the-test"
SHIPPED_WEBHOOK = "http://127.0.0.1:9095/alerts"
HURRY = {"group_wait: 30s": "group_wait: 1s", "group_interval: 5m": "group_interval: 5s"}


def until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Poll until `condition` is true; returns how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - started


def get(url: str, timeout: float = 10) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


class Webhook:
    """An HTTP server that keeps every alert it was told of, with the moment (monotonic seconds)."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, dict[str, Any]]] = []
        self.strangers = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                hook.strangers += not known
                if known:
                    hook.heard += [(time.monotonic(), alert) for alert in json.loads(body)["alerts"]]
                self.send_response(200 if known else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def told(self, status: str, **labels: str) -> list[float]:
        """When it heard of an alert with these labels in that status ("firing", "resolved")."""
        return [
            at for at, alert in self.heard if alert["status"] == status and labels.items() <= alert["labels"].items()
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Program:
    """A child process with a log of its own."""

    def __init__(self, log: Path, *argv: str) -> None:
        self.log = log
        parent = os.getpid()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: tie_to_parent(parent),  # noqa: PLW1509
            )

    def until_it_answers(self, url: str) -> None:
        def answers() -> bool:
            assert self._process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    return int(answer.status) == 200
            except OSError:
                return False

        until(answers, 30, url)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()
            self._process.wait()


class Alertmanager:
    """Alertmanager with the shipped file; `told` is sent to `webhook`."""

    def __init__(self, directory: Path, webhook: Webhook, *, hurry: bool = False) -> None:
        directory.mkdir()
        config = directory / "alertmanager.yml"
        shipped = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
        for old, new in ({SHIPPED_WEBHOOK: webhook.url} | (HURRY if hurry else {})).items():
            assert shipped.count(old) == 1, old
            shipped = shipped.replace(old, new)
        config.write_text(shipped)
        (directory / "webhook.token").write_text(TOKEN)
        self.address = f"127.0.0.1:{ports.free()}"
        self._program = Program(
            directory / "log",
            "prometheus-alertmanager",
            f"--config.file={config}",
            f"--storage.path={directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        )
        self._program.until_it_answers(f"http://{self.address}/-/ready")

    def send(self, alerts: Sequence[Mapping[str, Mapping[str, str]]]) -> None:
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts",
            data=json.dumps(alerts).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def close(self) -> None:
        self._program.close()


class Prometheus:
    """Prometheus with the shipped files. `targets` says who is scraped, by job."""

    def __init__(self, directory: Path, targets: Mapping[str, Sequence[str]], api_token: str) -> None:
        shutil.copytree(DEPLOY / "prometheus", directory)
        self.address = f"127.0.0.1:{ports.free()}"
        for job, addresses in {"prometheus": [self.address], **targets}.items():
            file = directory / "targets" / f"{job}.yml"
            assert file.exists(), job
            file.write_text(json.dumps([{"targets": list(addresses)}]))
        for name, secret in (("api.token", api_token), ("metrics.token", "")):
            (directory / name).write_text(secret)
        self._program = Program(
            directory / "log",
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={self.address}",
        )
        self._program.until_it_answers(f"http://{self.address}/-/ready")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            told = get(f"http://{self.address}/api/v1/query?{asked}")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return list(told["data"]["result"])

    def values(self, metric: str, label: str) -> list[str]:
        """What `label_values(metric, label)` gives."""
        asked = urllib.parse.urlencode({"match[]": metric})
        return list(get(f"http://{self.address}/api/v1/label/{label}/values?{asked}")["data"])

    def targets(self) -> list[dict[str, Any]]:
        return list(get(f"http://{self.address}/api/v1/targets?state=active")["data"]["activeTargets"])

    def firing(self) -> set[tuple[str, str]]:
        """Names and countries of the alerts that fire."""
        found = self.query('ALERTS{alertstate="firing"}')
        return {(one["metric"]["alertname"], one["metric"].get("country", "")) for one in found}

    def close(self) -> None:
        self._program.close()


@contextlib.contextmanager
def watching(
    directory: Path, targets: Mapping[str, Sequence[str]], api_token: str
) -> Iterator[tuple[Prometheus, Webhook]]:
    """All three, one telling the next."""
    with contextlib.ExitStack() as stack:
        webhook = Webhook()
        stack.callback(webhook.close)
        alertmanager = Alertmanager(directory / "alertmanager", webhook, hurry=True)
        stack.callback(alertmanager.close)
        everything = {**targets, "alertmanager": [alertmanager.address]}
        prometheus = Prometheus(directory / "prometheus", everything, api_token)
        stack.callback(prometheus.close)
        yield prometheus, webhook

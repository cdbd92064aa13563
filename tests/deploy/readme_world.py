"""Runs README.md's commands for `make up`, as written, and fails if one does.

Start it with nothing but loopback around: `unshare --net python -m tests.deploy.readme_world DIRECTORY`. There
`example.com` is a server of its own, by way of curl's configuration file.
"""

import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.deploy.readme import blocks, script

ROOT = Path(__file__).parents[2]
PAGE = b"the page of example.com\n"


class Origin(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


def example_com(home: Path) -> int:
    """Serve https://example.com/ to every curl that starts with this home; the server's port."""
    key, certificate = home / "key.pem", home / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=example.com", "-days", "2"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (home / ".curlrc").write_text(
        f"connect-to = example.com:443:127.0.0.1:{server.server_port}\ninsecure\nsilent\nshow-error\nfail\n"
    )
    return server.server_port


def run(home: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "VPNEXIT_GATEWAY__ALLOW_TARGETS": "127.0.0.0/8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    example_com(home)
    log = home / "up.log"
    (start,) = blocks("start")
    with log.open("wb") as output:
        up = subprocess.Popen(
            ["bash", "-c", "exec " + start.text],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "vpnexit is up" not in log.read_text():
            if up.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"`{start.text.strip()}` did not come up:\n{log.read_text()}")
            time.sleep(0.05)
        for block in blocks("up"):
            done = subprocess.run(
                ["bash", "-c", script(block)],
                cwd=ROOT,
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            print(f"--- {block.text}{done.stdout}{done.stderr}", flush=True)
            if done.returncode:
                sys.exit(f"exit code {done.returncode}: {block.text}\n{log.read_text()}")
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)


if __name__ == "__main__":
    run(Path(sys.argv[1]))

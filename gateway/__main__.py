"""One worker of a gateway, started by its supervisor: `python -m gateway FD`, FD being the socket they talk over."""

import socket
import sys

import uvloop

from gateway import compiled

compiled.use()
from gateway import server  # noqa: E402 - of the compiled copy

try:
    uvloop.run(server.run(socket.socket(fileno=int(sys.argv[1]))))
except OSError as error:
    sys.exit(f"vpnexit: {error.strerror or error}")

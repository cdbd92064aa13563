"""One worker of a gateway, started by its supervisor: `python -m gateway FD`, FD being the socket they talk over."""

import socket
import sys

import uvloop

from gateway import server

try:
    uvloop.run(server.run(socket.socket(fileno=int(sys.argv[1]))))
except OSError as error:
    sys.exit(f"vpnexit: {error.strerror or error}")

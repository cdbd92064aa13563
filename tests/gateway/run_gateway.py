"""Runs one gateway worker for a test. argv: gateway settings and Redis settings as JSON, machine."""

import sys

import structlog
import uvloop

from gateway.config import GatewaySettings
from gateway.server import run
from health.config import RedisSettings

structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)
uvloop.run(
    run(GatewaySettings.model_validate_json(sys.argv[1]), RedisSettings.model_validate_json(sys.argv[2]), sys.argv[3])
)

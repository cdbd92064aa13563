"""Runs a gateway for a test, as `vpnexit gateway` does. argv: a file that `Gateway` wrote; where only a plan is wanted,
the descriptor for it."""

import json
import os
import sys
from pathlib import Path

from gateway import start, supervisor
from gateway.config import GatewaySettings
from health.config import MetricsSettings, RedisSettings

if len(sys.argv) > 2:
    sys.excepthook = lambda _, error, __: print(" ".join(str(error).split()), file=sys.stderr)

told = json.loads(Path(sys.argv[1]).read_text())
plan = start.dump(
    GatewaySettings.model_validate_json(json.dumps(told["settings"])),
    RedisSettings.model_validate_json(json.dumps(told["redis"])),
    told["machine"],
    "info",
    reload=[sys.executable, *sys.argv[:2]],
    metrics_token=MetricsSettings.model_validate(told.get("metrics", {})).token,
)
if len(sys.argv) > 2:
    with os.fdopen(int(sys.argv[2]), "wb") as out:
        out.write(plan)
else:
    supervisor.become(plan)

"""The dashboards.

A counter of something that has not happened yet has no series, and no data is not what "none" looks like: such queries
end in `or vector(0)`.
"""

from deploy.grafana.boards.country import COUNTRY
from deploy.grafana.boards.fleet import FLEET
from deploy.grafana.boards.gateway import GATEWAY
from deploy.grafana.boards.node import NODE

BOARDS = (FLEET, COUNTRY, NODE, GATEWAY)

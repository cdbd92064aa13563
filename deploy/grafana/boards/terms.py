"""What several dashboards ask for alike."""

from deploy.grafana.panels import Panel, Query

RATE = "[$__rate_interval]"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """How fast a counter rises per second, in sum `by` some labels, of the series `where` a selector says."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{where}{RATE}))"


def quantiles(title: str, buckets: str, text: str = "") -> Panel:
    """`buckets` are rates by le."""
    shares = (("half", 0.5), ("95 %", 0.95), ("99 %", 0.99))
    queries = tuple(Query(f"histogram_quantile({share}, {buckets})", name) for name, share in shares)
    return Panel(title, queries, "s", text=text)

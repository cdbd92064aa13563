"""Grafana's dashboards: `boards` says what they show, `build` makes the JSON that Grafana provisions from files.

`python -m deploy.grafana.build` writes `dashboards/*.json` anew (it needs the development packages).
"""

"""The coordinator over HTTP: fleet API, dashboard, metrics.

process    one process: listen, serve, stop
app        the application
door       what every request passes
sessions   sessions of the dashboard
fleet      the fleet, its events and its actions
gateway    requests that are passed on to a node
pages      the dashboard's files
documents  values as JSON
metrics    Prometheus
"""

from synaptoroute_coordinator.app.process import serve

__all__ = ["serve"]

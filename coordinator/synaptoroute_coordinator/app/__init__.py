"""The coordinator over HTTP: fleet API, dashboard, metrics.

app        the application, and the process that serves it
runtime    what the endpoints share: sessions of the dashboard, policy of requests
fleet      endpoints of the fleet, its log and its actions
encoders   endpoints that change the encoder of the cluster
gateway    endpoints that a node answers
dashboard  the dashboard's files and session endpoints
metrics    probes and Prometheus metrics
responses  JSON documents and responses
"""

"""The coordinator over HTTP: fleet API, dashboard, metrics.

app        the application
runtime    what the endpoints share, and the dashboard's sessions
fleet      endpoints of the fleet, its log and its actions
encoders   endpoints that change the encoder of the cluster
voters     endpoints for voters, orphaned writes and recoveries
gateway    endpoints that forward a request to a node
dashboard  the dashboard's files and session endpoints
metrics    probes and Prometheus metrics
responses  JSON documents and responses
"""

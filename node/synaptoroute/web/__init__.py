"""Code that the HTTP servers of node and coordinator share.

    http_protocol  HTTP/1.1 connections with limits, in front of an ASGI application
    http_server    a server process: listen, serve, drain, stop
    middleware     what every request passes: request id, policy, error documents, access log
    api_keys       API keys with scopes
    problems       errors as RFC 9457 problem documents
    logs           structured logs

The command line uses ``api_keys``, ``problems`` and ``logs``, so these three import no
HTTP framework.
"""

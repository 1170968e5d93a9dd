"""What every HTTP door of the project shares, whichever framework stands behind it.

    keys      API keys with scopes: the file's format and its ring
    problems  errors as RFC 9457 problem documents
    refusals  refusals that exist only at a door
    logs      structured logs of a process

Nothing here imports the HTTP framework, so the node and the coordinator refuse, log
and authenticate alike.
"""

"""Settings of a client from the environment; read when a client is made."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """The variables of the command line and of the clients; empty where one is not set.

    Attributes:
        url: Addresses of nodes, comma-separated.
        api_key: API key.
        ca: File of the authorities of the nodes' certificates.
        client_cert: File of the client certificate.
        client_key: File of its key.
    """

    url: str
    api_key: str
    ca: str
    client_cert: str
    client_key: str


def client_environment() -> ClientEnvironment:
    names = ("URL", "API_KEY", "CA", "CLIENT_CERT", "CLIENT_KEY")
    return ClientEnvironment(*(os.environ.get(f"SYNAPTOROUTE_{name}", "") for name in names))

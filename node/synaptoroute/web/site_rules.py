"""Rules of hosts and sites: for which a server answers, and which may send it changes.

A browser sends the requests of any page to any address that it can reach, this machine's
loopback included.  Two rules keep such pages out where no API key does:

- The ``Host`` header must name this server.  A page whose own name was pointed at this
  server's address (DNS rebinding) counts as the same site for the browser, but its name
  stands in the header.  IP addresses and names without a dot cannot be the name of a site
  that somebody registered, so they pass, and with them the probes that ask by address.
- A request that changes something must not come from a page of another site.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from synaptoroute.config import HttpConfig
from synaptoroute.web.cors import ANY_ORIGIN, cors_origins
from synaptoroute.web.http_parser import HOST
from synaptoroute.web.problems import CrossSite, MisdirectedRequest

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
ANY_HOST: Final = "*"
KNOWN_HOSTS_MAX: Final = 1_024
_OWN_SITE: Final = frozenset({b"same-origin", b"none"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class SiteRules:
    """The rules of one server; used on one event loop."""

    def __init__(self, allowed_hosts: Iterable[str], origins: Iterable[str] = ()) -> None:
        """Make the rules.

        Args:
            allowed_hosts: Names, or ``*.name`` for all names below one, or ``*`` for every host.
            origins: Origins of other sites whose pages may send changes without an API key.
        """
        self._origins = frozenset(each.encode() for each in origins)
        self._exact: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._is_any = False
        for each in allowed_hosts:
            name = each.strip().lower().rstrip(".")
            if name == ANY_HOST:
                self._is_any = True
            elif name.startswith("*."):
                self._suffixes += (name[1:],)
            elif name:
                self._exact.add(name)
        self._known: set[bytes] = set()

    @classmethod
    def of(cls, config: HttpConfig, *, has_keys: bool, urls: Iterable[str] = ()) -> SiteRules:
        """The rules of a process.

        Without ``allowed_hosts``, any host is right where API keys protect the server, and
        where ``insecure`` says that everybody may use it from other machines.

        Args:
            config: Its settings.
            has_keys: Whether API keys are set.
            urls: Addresses at which others know the server.
        """
        allowed = [each for each in config.allowed_hosts.split(",") if each.strip()]
        is_public = config.insecure and not is_loopback(config.host)
        # Where there are keys, a request without one counts by its cookies, which no page of
        # another site may use.  An operator who allows every origin has named none.
        origins = [] if has_keys else [each for each in cors_origins(config) if each != ANY_ORIGIN]
        if not allowed and (has_keys or is_public):
            return cls([ANY_HOST], origins)
        own = (urlsplit(url).hostname or "" for url in urls)
        return cls([*allowed, config.host, *own], origins)

    def check(self, method: str, headers: Mapping[bytes, bytes], *, is_keyless: bool) -> None:
        """Refuse a request for another host, or a change that another site sends.

        Args:
            method: Its method.
            headers: Its headers, by name in lower case.
            is_keyless: Whether the request carries no API key of its own; a page can send
                such a request to another site, with the cookies of the user.

        Raises:
            MisdirectedRequest: The host is not allowed.
            CrossSite: A page of another site sends a change.
        """
        host = headers.get(b"host")
        # Only HTTP/1.0 goes without; no browser does.
        if host is not None and not self._is_any and host not in self._known:
            self._admit(host)
        if is_keyless and method not in SAFE_METHODS:
            site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
            if (site is None and origin is None) or origin in self._origins:
                return
            if (site is not None and site not in _OWN_SITE) or (
                origin is not None and not _is_same(origin, host or b"")
            ):
                raise CrossSite("a page of another site may not do this without an API key")

    def _admit(self, host: bytes) -> None:
        name = ""
        if HOST.fullmatch(host):
            name = (urlsplit(f"//{host.decode('ascii')}").hostname or "").rstrip(".")
        is_allowed = (
            name in self._exact
            or name.endswith((".localhost", *self._suffixes))
            or (name != "" and ("." not in name or is_address(name)))
        )
        if not is_allowed:
            raise MisdirectedRequest(
                "this server does not answer for the host of the request; the setting "
                "allowed_hosts lists those that it does"
            )
        if len(self._known) < KNOWN_HOSTS_MAX:
            self._known.add(host)


def _is_same(origin: bytes, host: bytes) -> bool:
    """Whether an Origin header names the host of the request."""
    try:
        page = urlsplit(origin.decode("latin-1"))
        own = urlsplit(f"//{host.decode('latin-1')}")
        default = _DEFAULT_PORTS.get(page.scheme)
        ports = page.port or default, own.port or default
    except ValueError:
        return False
    return bool(page.hostname) and page.hostname == own.hostname and ports[0] == ports[1]


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""A support bundle: what is known of nodes, Redis and this machine, in one archive.

Everything passes a ``Scrubber``.  A member that holds a known secret all the same is left out.
Whatever cannot be read is left out with the reason; the rest is still written.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.options import tls_context
from synaptoroute.cli.scrubbing import Scrubber
from synaptoroute.private_files import open_private
from synaptoroute.version import __version__

if TYPE_CHECKING:
    import httpx

    from synaptoroute.config import NodeConfig

SCHEMA: Final = "synaptoroute-support-bundle/1"
MEMBER_BYTES_MAX: Final = 4_194_304
BUNDLE_BYTES_MAX: Final = 33_554_432
"""Bytes of all members before they are compressed."""
LOG_BYTES_MAX: Final = 2_097_152
"""Bytes of a log file that are read, from its end."""
REQUEST_SECONDS_MAX: Final = 10.0
SECRET_CHARACTERS_MIN: Final = 6
_SECRET_VARIABLE: Final = re.compile(
    r"^(SYNAPTOROUTE|OTEL)_.*(PASSWORD|SECRET|KEY|HEADERS|REDIS_URL)$"
)
OF_A_NODE: Final = {
    "readiness": "/readyz",
    "state": "/-/state",
    "settings": "/-/settings",
    "cluster": "/v1/cluster",
    "cascade": "/v1/settings/cascade",
    "calibration": "/v1/settings/calibration",
    "propagation": "/-/propagation",
    "traffic": "/-/traffic",
    "imports": "/-/imports",
}
OF_A_COORDINATOR: Final = {
    "cluster": "/v1/cluster",
    "alarms": "/v1/alarms",
    "log": "/v1/log",
    "nodes": "/v1/diagnostics",
}
_CGROUP: Final = (
    "cpu.max", "cpu.stat", "memory.max", "memory.current", "memory.events", "memory.stat",
)  # fmt: skip
_INFO_CODES: Final = frozenset(
    "redis_version valkey_version server_name redis_mode server_mode role maxmemory_policy "
    "mem_allocator "
    "aof_last_bgrewrite_status aof_last_write_status rdb_last_bgsave_status master_link_status "
    "multiplexing_api".split()
)


class Bundle:
    """The members of a bundle while it is collected.

    Args:
        scrubber: Hides the texts.
        secrets: Texts that no member may hold in any of their forms.
        seconds_max: Time in which everything is collected.
    """

    def __init__(self, scrubber: Scrubber, secrets: Iterable[str], seconds_max: float) -> None:
        self.scrubber = scrubber
        self._forms = [form for secret in secrets for form in forms_of(secret)]
        self._began_at = time.monotonic()
        self._give_up_at = self._began_at + seconds_max
        self._members: dict[str, bytes] = {}
        self.left_out: list[dict[str, str]] = []

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._give_up_at - time.monotonic())

    def collect(self, what: str, work: Callable[[], None]) -> None:
        """Run one part of the collection; whatever it raises leaves out only that part."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except Exception as error:
                failed.append(error)

        if self.seconds_left <= 0:
            self.leave_out(what, "out_of_time")
            return
        # A daemon: what hangs must not keep the command from ending.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.seconds_left)
        if thread.is_alive():
            self.leave_out(what, "out_of_time")
        elif failed:
            self.leave_out(what, reason_of(failed[0]))

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append({"what": what, "why": why})

    def add_document(self, path: str, document: Any) -> None:
        """Add a JSON document, its texts hidden."""
        self.add_own(path, self.scrubber.document(document))

    def add_own(self, path: str, document: Any) -> None:
        """Add a JSON document that holds only what this program says."""
        self.add_bytes(path, json.dumps(document, indent=1).encode())

    def add_bytes(self, path: str, body: bytes) -> None:
        if len(body) > MEMBER_BYTES_MAX:
            self.leave_out(path, "too_large")
        elif sum(map(len, self._members.values())) + len(body) > BUNDLE_BYTES_MAX:
            self.leave_out(path, "bundle_full")
        elif any(form in body for form in self._forms):
            self.leave_out(path, "holds_a_secret")
        else:
            self._members[path] = body

    def write(self, output: Path) -> None:
        """Write the archive, which only its owner can read."""
        manifest = {
            "schema": SCHEMA,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "release": __version__,
            "seconds": round(time.monotonic() - self._began_at, 3),
            "members": [
                {"path": path, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
                for path, body in sorted(self._members.items())
            ],
            "left_out": self.left_out,
        }
        everything = {"manifest.json": json.dumps(manifest, indent=1).encode(), **self._members}
        part = output.with_name(output.name + ".part")
        with open_private(part, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for path, body in everything.items():
                member = tarfile.TarInfo(f"support-bundle/{path}")
                member.size, member.mode, member.mtime = len(body), 0o600, int(time.time())
                archive.addfile(member, io.BytesIO(body))
        part.replace(output)


def forms_of(secret: str) -> list[bytes]:
    """A secret as it is, as it stands in a URL or in JSON, and in base64."""
    if len(secret) < SECRET_CHARACTERS_MIN:
        return []  # would be found in every member
    texts = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    encoded = base64.b64encode(secret.encode()).rstrip(b"=")
    return [*(text.encode() for text in texts), encoded[:-1]]


def known_secrets(config: NodeConfig, api_key: str | None) -> list[str]:
    """The secrets in the settings of this environment and in the files that they name."""
    found = [api_key or ""]
    found += [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for name, value in vars(config).items():
        if hasattr(value, "get_secret_value"):
            text = value.get_secret_value()
            found.append(text)
            found += [unquote(urlsplit(text).password or "")]
        elif isinstance(value, Path) and name.endswith(("_file", "_key")) and value.is_file():
            if name.endswith(("routes_file", "ca_file", "cert_file", "genesis_file")):
                continue
            with value.open("rb") as file:
                words = file.read(65_536).decode(errors="replace").split()
            found += [word for word in words if len(word) >= 16]
    return [secret for secret in found if secret]


def reason_of(error: BaseException) -> str:
    """Why something is left out; the message of an error may hold what nobody shall read."""
    return f"status_{error.status}" if isinstance(error, RefusedByServer) else type(error).__name__


# --- over HTTP ---------------------------------------------------------------------------


def collect_urls(bundle: Bundle, urls: Sequence[str], api_key: str | None) -> None:
    """Ask every address for what its node or coordinator says of itself."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    # A redirect would take the API key to another place.
    with httpx.Client(
        verify=tls_context() or True, headers=headers, follow_redirects=False
    ) as client:
        for number, url in enumerate(urls):
            _collect_url(bundle, client, url.rstrip("/"), number)


def _collect_url(bundle: Bundle, client: httpx.Client, url: str, number: int) -> None:
    folder = f"nodes/{number}"
    try:
        view = _read(bundle, client, url + "/v1/cluster")
    except Exception as error:
        view = b"{}"
        if not _is_there(bundle, client, url):
            bundle.leave_out(folder, reason_of(error))
            return
    paths = OF_A_NODE
    if b'"coordinator":' in view:
        folder, paths = f"coordinators/{number}", OF_A_COORDINATOR
    for name, path in paths.items():

        def ask(name: str = name, path: str = path) -> None:
            body = _read(bundle, client, url + path)
            bundle.add_document(f"{folder}/{name}.json", json.loads(body))

        bundle.collect(f"{folder}/{name}.json", ask)

    def ask_metrics() -> None:
        text = _read(bundle, client, url + "/metrics").decode(errors="replace")
        shown = "\n".join(bundle.scrubber.metrics(text))
        bundle.add_bytes(f"{folder}/metrics.txt", shown.encode())

    bundle.collect(f"{folder}/metrics.txt", ask_metrics)


def _is_there(bundle: Bundle, client: httpx.Client, url: str) -> bool:
    import httpx

    try:
        _read(bundle, client, url + "/livez")
    except (httpx.HTTPError, ValueError):
        return False
    return True


def _read(bundle: Bundle, client: httpx.Client, url: str) -> bytes:
    """Read a bounded answer; 503 of a node that is not ready counts as one."""
    seconds = min(REQUEST_SECONDS_MAX, max(0.1, bundle.seconds_left))
    body = bytearray()
    with client.stream("GET", url, timeout=seconds) as response:
        if response.status_code not in (200, 503):
            raise RefusedByServer(response.status_code)
        for piece in response.iter_bytes():
            body += piece
            if len(body) > MEMBER_BYTES_MAX:
                raise TooLargeForBundle
    return bytes(body)


class RefusedByServer(ValueError):
    """A server answered with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class TooLargeForBundle(ValueError):
    """An answer is larger than a member may be."""


# --- on this machine ---------------------------------------------------------------------


def collect_machine(bundle: Bundle, config: NodeConfig) -> None:
    """Add processor, limits, memory, disk and packages of this machine."""
    folder = config.database.absolute().parent
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    bundle.add_own(
        "machine/platform.json",
        {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": platform.system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "processor": _cpu_info(),
            "cpus": os.cpu_count(),
            "cgroup": _cgroup(),
            "memory": _memory(),
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
        },
    )
    bundle.add_own("machine/packages.json", _packages())


def _packages() -> dict[str, str]:
    """Versions of this project and of what it requires, extras included."""
    wanted = {"synaptoroute-cluster"}
    for line in requires("synaptoroute-cluster") or ():
        name = line.split(";")[0]
        for mark in "<>=!~[ ":
            name = name.partition(mark)[0]
        wanted.add(name.strip().lower())
    found = {each.name.lower(): each.version for each in distributions() if each.name}
    return {name: found[name] for name in sorted(wanted) if name in found}


def _cpu_info() -> dict[str, str]:
    """Name and instruction sets of the first processor."""
    kept = {"model name", "flags", "features", "cpu family", "model", "cpu implementer", "cpu part"}
    found: dict[str, str] = {}
    for line in _read_file("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if (key := name.strip().lower()) in kept:
            found.setdefault(key.replace(" ", "_"), value.strip())
    return found


def _cgroup() -> dict[str, str]:
    found = {name: _read_file(f"/sys/fs/cgroup/{name}").strip() for name in _CGROUP}
    return {name: value for name, value in found.items() if value}


def _memory() -> dict[str, str]:
    kept = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    lines = (line.partition(":") for line in _read_file("/proc/meminfo").splitlines())
    return {name: value.strip() for name, _, value in lines if name in kept}


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65_536)
    except OSError:
        return ""


def collect_settings(bundle: Bundle, config: NodeConfig) -> None:
    """Add the settings of this environment, and which variables are set."""
    bundle.add_document("machine/settings.json", config.model_dump(mode="json"))
    ours = ("SYNAPTOROUTE_", "OTEL_")
    names = [name for name in os.environ if name.startswith(ours) and name.isidentifier()]
    known = {f"SYNAPTOROUTE_{field.upper()}" for field in type(config).model_fields}
    # A misspelt variable is worth knowing, but its name may be anything.
    shown = [name if name in known or name[:5] == "OTEL_" else "unknown" for name in names]
    bundle.add_own("machine/variables.json", sorted(shown))


def collect_database(bundle: Bundle, path: Path) -> None:
    from synaptoroute.storage.inspection import inspect_database

    if not path.exists():
        bundle.leave_out("machine/database.json", "no_such_file")
        return
    bundle.add_own("machine/database.json", inspect_database(path, bundle.seconds_left))


def collect_redis(bundle: Bundle, read_info: Callable[[], Mapping[str, str]]) -> None:
    """Add figures and states of Redis' INFO; addresses, names and folders are left out."""
    shown: dict[str, str] = {}
    for name, value in read_info().items():
        is_number = value.replace(".", "", 1).lstrip("-").isdecimal()
        if (is_number or name in _INFO_CODES) and name.replace("_", "").isalnum():
            shown[name] = value
    bundle.add_own("redis/info.json", shown)


def collect_log(bundle: Bundle, path: Path, number: int) -> None:
    """Add the end of a log file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
        lines = file.read(LOG_BYTES_MAX).decode(errors="replace").splitlines()
    shown = "\n".join(bundle.scrubber.log(lines))
    bundle.add_bytes(f"logs/{number}.jsonl", shown.encode())


def check_output(output: Path) -> None:
    """Refuse to replace a file.

    Raises:
        BadUsage: It exists, or its folder does not.
    """
    if output.exists():
        raise BadUsage(f"{output} exists; name another file with --output")
    if not output.absolute().parent.is_dir():
        raise BadUsage(f"{output.absolute().parent} is no folder")

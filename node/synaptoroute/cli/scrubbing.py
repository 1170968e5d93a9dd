"""Scrubbing of a support bundle: numbers, states and codes stay, texts and secrets do not.

Rule 1: a number, a truth value and an empty text are kept.
Rule 2: a text is kept if its field is in ``KEPT_FIELDS`` and it has the form of a code.
Rule 3: every other text becomes ``hidden:`` and eight digits.  Equal texts of one bundle have equal
digits; the key of the digits is drawn for the bundle and forgotten with it, so nobody can find a
short text by trying.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Final

HIDDEN: Final = "hidden:"
TEXT_CHARACTERS_MAX: Final = 200
DEPTH_MAX: Final = 20
KEPT_FIELDS: Final = frozenset(
    (
        "aggregation at boot cause chain check cluster_id code cors_methods digest digest_state "
        "encoder encoder_precision encoders fingerprint fitted_at fitted_by head health kind level "
        "lineage log_format log_level log_state model next_encoder_precision next_model node "
        "pending providers readiness reason reasons recovery release replica_state role severity "
        "sqlite_synchronous starting_numbers state storage_state table tls_client_auth trust_mode "
        "type unit version voters"
    ).split()
)
"""Fields of nodes and coordinators whose texts are states, codes, versions or digests."""
NAME_FIELDS: Final = frozenset(
    "advertise_url author database detail holder key message name namespace node_name owner path "
    "route set subject url".split()
)
"""Fields that are kept only if the operator asks for names."""
KEPT_LABELS: Final = frozenset(
    "le quantile method status endpoint state version source kind reason stage result role "
    "encoder code level stream".split()
)
"""Labels of metrics whose values are no names."""
KEPT_LOG_FIELDS: Final = frozenset(
    "timestamp level logger code reason state method release version digest".split()
)
_MAPS_BY_NAME: Final = frozenset({"set_cascades", "sets", "aliases", "routes", "limits"})
_IDENTITY: Final = re.compile(r"[0-9a-f]{32}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CODE: Final = re.compile(r"[A-Za-z0-9_.:,+/{}-]*")
_SAMPLE: Final = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[^"]|"(?:[^"\\]|\\.)*")*)\})? (\S+)'
)
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_LINE: Final = re.compile(r"(\S+) \[(\w+) *\] ([a-z0-9_]+) +\[(synaptoroute[\w.]*)\]")
_FRAME: Final = re.compile(r'^ *File "[^"]*?(synaptoroute\w*/[\w/]+\.py)", line (\d+), in (\w+)$')
_RAISED: Final = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Refused|NotReady|Timeout))\b")


class Scrubber:
    """Hides texts of one bundle.

    Args:
        shows_names: Keep the fields in ``NAME_FIELDS`` and the keys of maps.
    """

    def __init__(self, *, shows_names: bool = False) -> None:
        self._shows_names = shows_names
        self._key = secrets.token_bytes(32)

    def hide(self, text: str) -> str:
        """Replace a text by digits that are equal for equal texts."""
        digits = hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()
        return HIDDEN + digits[:8]

    def document(self, value: Any, field: str = "", depth: int = 0) -> Any:
        """Hide the texts in a JSON document."""
        if depth > DEPTH_MAX:
            return self.hide("")
        if isinstance(value, dict):
            is_by_name = field in _MAPS_BY_NAME
            return {
                self._map_key(str(key), is_by_name=is_by_name): self.document(
                    own, str(key), depth + 1
                )
                for key, own in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.document(own, field, depth + 1) for own in value]
        return self._text(value, field) if isinstance(value, str) else value

    def _map_key(self, key: str, *, is_by_name: bool) -> str:
        if self._shows_names or (not is_by_name and _FIELD.fullmatch(key)):
            return key
        return self.hide(key)

    def _text(self, text: str, field: str) -> str:
        if not text:
            return text
        if self._shows_names and field in NAME_FIELDS:
            return text[:TEXT_CHARACTERS_MAX]
        if field == "node" and not _IDENTITY.fullmatch(text):
            return text if self._shows_names else self.hide(text)
        # The kinds of entries have two words.
        code = text.replace(" ", "_") if field == "kind" else text
        if field in KEPT_FIELDS and len(code) <= TEXT_CHARACTERS_MAX and _CODE.fullmatch(code):
            return code
        return self.hide(text)

    def metrics(self, text: str) -> Iterator[str]:
        """Yield the samples of metrics in Prometheus' text format, names in labels hidden."""
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found is None:
                continue  # a comment repeats what the documents say
            name, labels, number = found.groups()
            shown = ",".join(
                f'{label}="{self._label(label, value)}"'
                for label, value in _LABEL.findall(labels or "")
            )
            yield f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"

    def _label(self, label: str, value: str) -> str:
        if not value or self._shows_names or (label in KEPT_LABELS and _CODE.fullmatch(value)):
            return value
        return self.hide(value)

    def log(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield log lines as JSON; a line in another form gives its time and event at most."""
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if isinstance(found, dict):
                yield json.dumps(self._event(found))
            elif (parts := _LINE.match(line)) is not None:
                timestamp, level, event, logger = parts.groups()
                shown = {"timestamp": timestamp, "level": level, "message": event, "logger": logger}
                yield json.dumps(shown)

    def _event(self, event: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, value in event.items():
            if not _FIELD.fullmatch(key):
                continue
            if key == "exception" and isinstance(value, str):
                shown[key] = list(_frames(value))
            elif key == "message" and isinstance(value, str):
                is_event = str(event.get("logger", "")).startswith("synaptoroute")
                shown[key] = value if is_event and _FIELD.fullmatch(value) else self.hide(value)
            elif isinstance(value, str):
                is_code = key in KEPT_LOG_FIELDS and _CODE.fullmatch(value) is not None
                if key == "method":  # a client may send any
                    is_code = value in _METHODS
                is_shown = is_code or (self._shows_names and key in NAME_FIELDS)
                shown[key] = value if is_shown else self.hide(value)
            elif value is None or isinstance(value, int | float):
                shown[key] = value
        return shown


def _frames(traceback: str) -> Iterator[str]:
    """The places and classes of a traceback, without messages and source lines."""
    for line in traceback.splitlines():
        if (frame := _FRAME.match(line)) is not None:
            yield ":".join(frame.groups())
        elif (raised := _RAISED.match(line)) is not None:
            yield raised[1]

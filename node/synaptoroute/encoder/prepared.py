"""Prepared models: the file of what ``model prepare`` measured, beside the model.

The file is found by the fingerprint, so numbers of another precision or prefix are never used.
A node reads it when it opens the model: the numbers of the confidence until the first fit, and
the scripts that the model reads.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from synaptoroute.decision.starting_numbers import Tables, read_tables, use_tables
from synaptoroute.encoder.understanding import known_scripts

PREPARED_GLOB: Final = "prepared-*.json"
_FORMAT: Final = "synaptoroute-prepared-model"
_VERSION: Final = 1
_FILE_BYTES_MAX: Final = 1 << 20
_UNDERSTOOD_SHARE_MIN: Final = 0.5
"""Between the languages that measured models were trained on (.56 and more) and others (.44)."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one model.

    Attributes:
        accuracy: Share of texts given their route, by data set.
        lone_texts_per_second: Short texts encoded one by one on one thread.
        batch_texts_per_second: The same in batches.
        cpu: Model of the processor.
    """

    accuracy: dict[str, float]
    lone_texts_per_second: float
    batch_texts_per_second: float
    cpu: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Measurements of one model under one fingerprint.

    Attributes:
        model: Its name.
        folder: Where it was; empty for a model that is known by name.
        scripts: Scripts that it reads, such as ``LATIN``; None for all.
        languages: Share of the paraphrases that it tells apart, by language.
        reference_accuracy: Of the bundled model on the same texts.
        tables: Numbers of the confidence before the first fit.
    """

    model: str
    fingerprint: str
    folder: str
    scripts: frozenset[str] | None
    languages: Mapping[str, float]
    measured: Measured
    reference_accuracy: Mapping[str, float]
    tables: Tables

    @property
    def understood_languages(self) -> tuple[str, ...]:
        """Languages that the model understands, as BCP 47 tags."""
        return tuple(tag for tag, share in self.languages.items() if is_enough(share))


def is_enough(share: float) -> bool:
    """Whether a model that tells this share of paraphrases apart understands the language."""
    return share >= _UNDERSTOOD_SHARE_MIN


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Folder of what is prepared for models that are known by name, and of copies."""
    return (cache_dir or Path(os.path.expanduser("~")) / ".cache" / "synaptoroute") / "prepared"


def file_name(fingerprint: str) -> str:
    """Name of the file of an encoder."""
    return f"prepared-{fingerprint[:32]}.json"


def use_prepared(
    fingerprint: str, folder: Path | None = None, cache_dir: Path | None = None
) -> Prepared | None:
    """Find what was prepared for an encoder, and use its numbers from now on.

    Args:
        folder: Of the model; what lies there comes before the cache.
    """
    for place in (folder, cache_folder(cache_dir)):
        if place is None:
            continue
        found = load_prepared(place / file_name(fingerprint))
        if found is not None and found.fingerprint == fingerprint:
            use_tables(fingerprint, found.tables)
            return found
    return None


def list_prepared(cache_dir: Path | None = None) -> Iterator[Prepared]:
    """List what was prepared on this machine, by file name."""
    for path in sorted(cache_folder(cache_dir).glob(PREPARED_GLOB)):
        found = load_prepared(path)
        if found is not None:
            yield found


def save_prepared(prepared: Prepared, path: Path) -> None:
    """Write a file under a temporary name first: a crash leaves the old one or none."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": prepared.model,
        "fingerprint": prepared.fingerprint,
        "folder": prepared.folder,
        "scripts": None if prepared.scripts is None else sorted(prepared.scripts),
        "languages": dict(prepared.languages),
        "measured": asdict(prepared.measured),
        "reference_accuracy": dict(prepared.reference_accuracy),
        "numbers": {
            kind: {name: [round(number, 6) for number in cell] for name, cell in rows.items()}
            for kind, rows in prepared.tables.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(content, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        # Other users read it beside the model, which a private temporary file would forbid.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_prepared(path: Path) -> Prepared | None:
    """Read a file; None if there is none, or if it is damaged or of another release."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except OSError:
        return None
    try:
        return _read(json.loads(text) if len(text) <= _FILE_BYTES_MAX else None)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        _log.warning("%s is not used: %s; run `synaptoroute model prepare --again`", path, error)
        return None


def _read(content: Any) -> Prepared:
    if content["format"] != _FORMAT or content["version"] != _VERSION:
        raise ValueError("it is of another release")
    tables = read_tables(content["numbers"])
    if tables is None:
        raise ValueError("its numbers are damaged")
    scripts = content["scripts"]
    if scripts is not None and not known_scripts().issuperset(scripts):
        raise ValueError("it names a script that is none")
    return Prepared(
        str(content["model"]),
        str(content["fingerprint"]),
        str(content["folder"]),
        None if scripts is None else frozenset(scripts),
        {str(tag): float(share) for tag, share in content["languages"].items()},
        Measured(**content["measured"]),
        {str(name): float(share) for name, share in content["reference_accuracy"].items()},
        tables,
    )

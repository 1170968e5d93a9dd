"""Routes from files: those of this project and those of other programs, by one set of rules.

Everything here is pure: bytes in, routes and notes out.  The rules are the same for every
format: UTF-8, no key twice, no anchors in YAML, names in NFC, and errors with a stable code and
the place.
"""

from synaptoroute.importers.drafts import Imported
from synaptoroute.importers.formats import FORMATS, detect, own_routes, read_routes
from synaptoroute.importers.json_reader import parse_json
from synaptoroute.importers.labels import read_labels
from synaptoroute.importers.own import read_route
from synaptoroute.importers.refusal import CODES, FileRefused
from synaptoroute.importers.sources import FILE_BYTES_MAX, Document, Source, opened, parse
from synaptoroute.importers.tables import NO_ROUTE, LabelledText
from synaptoroute.importers.yaml_reader import parse_yaml

__all__ = [
    "CODES",
    "FILE_BYTES_MAX",
    "FORMATS",
    "NO_ROUTE",
    "Document",
    "FileRefused",
    "Imported",
    "LabelledText",
    "Source",
    "detect",
    "opened",
    "own_routes",
    "parse",
    "parse_json",
    "parse_yaml",
    "read_labels",
    "read_route",
    "read_routes",
]

"""Files of labelled queries: TSV, CSV, JSON lines, or the tests of a route folder."""

from __future__ import annotations

from dataclasses import replace

from synaptoroute.importers.folder import read_tests
from synaptoroute.importers.json_reader import parse_json
from synaptoroute.importers.own import read_lines
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.sources import KIND_BY_SUFFIX, suffix_of
from synaptoroute.importers.tables import (
    LabelledText,
    delimiter_of,
    read_delimited,
    read_labelled_lines,
)
from synaptoroute.importers.text import decode
from synaptoroute.importers.yaml_reader import parse_yaml
from synaptoroute.models import normal_name


def read_labels(name: str, body: bytes) -> list[LabelledText]:
    """Read labelled queries: ``text<TAB>route``, CSV with a header, JSON lines, or the
    YAML of a route folder's tests.

    Lines that begin with ``#`` are comments in TSV.  ``-`` stands for no route.

    Args:
        name: Of the file; its suffix decides, and the content where it says nothing.

    Raises:
        FileRefused: It breaks a rule; names the line.
    """
    text = decode(body)
    kind = KIND_BY_SUFFIX.get(suffix_of(name))
    if kind == "json":
        document = parse_json(body)
        if not isinstance(document, list):
            raise FileRefused("unknown_format", "labelled queries in JSON are a list of objects")
        found = read_labelled_lines(enumerate(document, start=1))
    elif kind == "yaml":
        tests = read_tests(parse_yaml(text), name, text)
        found = [
            LabelledText(line, query, route) for line, (query, route) in enumerate(tests.items(), 1)
        ]
    elif kind == "ndjson" or (kind is None and text.lstrip().startswith("{")):
        found = read_labelled_lines(read_lines(text))
    elif kind == "csv":
        found = read_delimited(text, delimiter_of(text) or ",")
    else:
        # A question may have commas: only a header makes a text a table of commas.
        found = read_delimited(text, delimiter_of(text) or "\t")
    if not found:
        raise FileRefused("file_empty", "the file has no queries")
    return [
        each if each.route is None else replace(each, route=normal_name(each.route))
        for each in found
    ]

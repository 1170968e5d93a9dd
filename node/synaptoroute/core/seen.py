"""What a plan saw of a route set, as one hash that its commit compares.

The hash covers what the plan changes and nothing else, so that changes beside it, such as another
route or a fit, do not refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.digest import settings_hash
from synaptoroute.core.mutation import SetTest, Settings


def seen_of(
    routes: Mapping[str, RouteRecord],
    names: Iterable[str],
    settings: Settings | None,
    tests: Mapping[str, SetTest],
    texts: Iterable[str],
) -> str:
    """Hash what a plan depends on; 64 hexadecimal digits.

    Args:
        routes: All routes of the set.
        names: Those that the plan puts or removes; they may be missing.
        settings: Those of the set, if the plan changes some.
        tests: All tests of the set.
        texts: Texts of the tests that the plan puts or removes; they may be missing.
    """
    revisions = [
        [name, list(route.revision) if (route := routes.get(name)) else None]
        for name in sorted(set(names))
    ]
    # A calibration is measured in the background and says nothing about what somebody wants.
    # By their hash, which stays when a later release has further settings: the releases of a
    # rolling upgrade must decide alike.
    known = None if settings is None else settings_hash(replace(settings, calibration="")).hex()
    labels = [[text, *tests.get(text, ())[1:]] for text in sorted(set(texts))]
    document = json.dumps([revisions, known, labels], sort_keys=True, separators=(",", ":"))
    return sha256(document.encode()).hexdigest()

"""The same router with SynaptoRoute, from the file that semantic-router saved."""

import sys
from pathlib import Path

from synaptoroute import AdaptiveRouter, Encoder
from synaptoroute.importers import Source, read_routes

file = Path("router.yaml")
router = AdaptiveRouter(Encoder())
for route in read_routes(Source.of(file.name, file.read_bytes())).routes:
    router.add_route(route)

for text in sys.argv[1:]:
    match = router.query(text)
    print(f"{text}: {match.route}")

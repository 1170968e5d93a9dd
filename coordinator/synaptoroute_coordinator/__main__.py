"""``python -m synaptoroute_coordinator``."""

from synaptoroute_coordinator.cli import main

main()

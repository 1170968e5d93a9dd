"""``python -m synaptoroute_coordinator``."""

from synaptoroute_coordinator.cli import main

if __name__ == "__main__":
    main()

"""The control plane of a SynaptoRoute cluster: never on the data path."""

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in

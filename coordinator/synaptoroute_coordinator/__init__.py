"""The control plane of a SynaptoRoute cluster: never on the data path."""

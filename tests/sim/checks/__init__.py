"""What must hold of a simulated history; each check gives sentences, none if all is well."""

"""Trust: node identities, the cluster secret, and signed statements.

Everything here is computation on bytes, except that keys are read from and written to files.
The package knows neither Redis nor HTTP.  Its users decide which statements count.
"""

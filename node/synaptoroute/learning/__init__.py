"""Learning from traffic: curves of labelled answers, guarantees, clusters, redaction.

Everything here is pure: values in, values out.
"""

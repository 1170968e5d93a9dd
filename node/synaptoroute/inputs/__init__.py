"""Preparation of a query's text before it is encoded: cuts, repairs of words, clauses."""

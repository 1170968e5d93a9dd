"""What a query's text goes through before it is encoded: cuts, repairs of words, clauses."""

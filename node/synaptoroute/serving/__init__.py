"""Answers queries: admission, queue, encoder workers, scorer."""

"""The replicated state machine: pure, synchronous, deterministic.

Nothing in this package does I/O, reads a clock, starts a thread or draws a
random number.  It takes values and returns values; the shell carries them out.
"""

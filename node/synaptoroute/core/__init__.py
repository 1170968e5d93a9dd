"""The replicated state machine: pure, synchronous, deterministic.

Nothing in this package does I/O, reads a clock, starts a thread or draws a random number.
Functions take values and return values; the shell executes the effects.
"""

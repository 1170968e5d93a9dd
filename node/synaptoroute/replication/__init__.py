"""Follows the log: applier, follower, catch-up, recovery, snapshots."""

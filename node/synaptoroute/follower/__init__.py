"""Follows the log and feeds the replica; fetches what is missing."""

from synaptoroute.follower.donation import Donor, SnapshotGift
from synaptoroute.follower.follower import Follower
from synaptoroute.follower.status import FollowerCounts, FollowerStatus, LogState

__all__ = ["Donor", "Follower", "FollowerCounts", "FollowerStatus", "LogState", "SnapshotGift"]

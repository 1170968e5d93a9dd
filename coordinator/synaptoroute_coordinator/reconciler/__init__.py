"""Observe, plan, act, at its own pace.

reconciler  the loop
feed        events and views for whoever watches
"""

from synaptoroute_coordinator.reconciler.feed import Feed, Happened
from synaptoroute_coordinator.reconciler.reconciler import NotActive, Reconciler

__all__ = ["Feed", "Happened", "NotActive", "Reconciler"]

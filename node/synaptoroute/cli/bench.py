"""Where ``synaptoroute bench`` joins the command line.

The command is a function of typed options in ``commands/bench.py``, named in ``app``
as the others are.  It may use ``processes`` to start nodes, ``client`` to ask them,
``answering`` to ask a router in this process, and ``terminal`` to show figures.
"""

from __future__ import annotations

"""Adapters for other programs: an MCP server, a LangChain runnable, a LlamaIndex selector.

Each needs an extra of this package and is imported by its module's name.  Nothing else in
``synaptoroute`` imports them except their commands.
"""

"""Bringing weights to nodes: fetched or pushed once, then passed on from node to node. See docs/adr/0008."""

"""Pipelines over unequal nodes: which nodes, and how many layers on each."""

"""llmfleet: from a list of unequal GPU machines to a running, explained, measured LLM service, over SSH."""

__version__ = "0.1.0"

"""Memory budgets: what an engine will use of each GPU, and how much KV cache that leaves."""

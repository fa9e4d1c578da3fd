"""Architectures by the name config.json gives them. One function each: its sections in, a Model out."""

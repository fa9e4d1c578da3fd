"""Inventories written from the machines themselves."""

"""Addresses as commands and URLs want them."""

from __future__ import annotations


def host_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def url(address: str, port: int, path: str) -> str:
    return f"http://{host_port(address, port)}{path}"

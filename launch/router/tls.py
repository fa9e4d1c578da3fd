"""HTTPS for clients: a certificate and its key, in one file of the router that it reads again when it changes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmfleet.launch.router.xds import Json, discovery, extension, from_yaml, typed, watched
from llmfleet.planner.errors import InputError

SECRET = "tls"  # noqa: S105 - a name
TLS_FILE = f"xds/sds/{SECRET}.yaml"
HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Certificate:
    chain: str  # PEM, the server's own first
    key: str = field(repr=False)


def read_certificate(chain: Path, key: Path) -> Certificate:
    """Raises InputError where a file cannot be read, is no PEM, or the two do not belong together."""
    for path in (chain, key):
        if not path.is_file():
            hint = "It is found from the inventory's folder."
            raise InputError(f"no such file for `router: tls:`: {path}", hint=hint)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password=lambda: b"")
        return Certificate(chain.read_text(encoding="utf-8"), key.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{chain} and {key} are no certificate and its key: {what}",
            hint="PEM files; the key without a password, the certificate with the chain below it.",
        ) from None


def secret(certificate: Certificate) -> str:
    """The text of the file, readable for the router's user only."""
    pair = {"certificate_chain": _inline(certificate.chain), "private_key": _inline(certificate.key)}
    kind = "envoy.extensions.transport_sockets.tls.v3.Secret"
    return discovery([typed(kind, name=SECRET, tls_certificate=pair)])


def _inline(text: str) -> Json:
    return {"inline_string": text}


def transport_socket(folder: str) -> Json:
    """Of the listener: TLS 1.2 or newer, HTTP/1.1 or HTTP/2."""
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [{"name": SECRET, "sds_config": watched(f"{folder}/{TLS_FILE}")}],
        },
    )


def without_key(files: Mapping[str, str]) -> Mapping[str, str]:
    """The files with a mark in place of the private key. A certificate is no secret, and tells when the key changed."""
    if TLS_FILE not in files or not files[TLS_FILE]:
        return files
    found = from_yaml(files[TLS_FILE])
    found["resources"][0]["tls_certificate"]["private_key"] = _inline(HIDDEN)
    return {**files, TLS_FILE: discovery(found["resources"])}

"""HTTPS for clients: a certificate that is read again when it changes, and a key that no other file carries."""

from __future__ import annotations

import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleets import hosts_of, rag_plan
from running import RunningRouter, until

from llmfleet.launch.router.clients import masked
from llmfleet.launch.router.config import router_files
from llmfleet.launch.router.tls import TLS_FILE, Certificate, read_certificate
from llmfleet.launch.router.validate import merged_static
from llmfleet.planner.errors import InputError

pytestmark = pytest.mark.live


def made(folder: Path, name: str) -> Certificate:
    key, chain = folder / f"{name}.key", folder / f"{name}.pem"
    request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
    subprocess.run((*request, "-keyout", str(key), "-out", str(chain)), check=True, capture_output=True)
    return read_certificate(chain, key)


def shown(router: RunningRouter) -> str:
    """The certificate that a client gets, in PEM; nothing where there is no TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", router.port), 5) as plain, context.wrap_socket(plain) as secured:
            secured.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert secured.recv(4096).startswith(b"HTTP/1.1 200 OK")
            return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"")
    except (OSError, AssertionError):
        return ""


@pytest.fixture
def plain_again(router: RunningRouter) -> Iterator[RunningRouter]:
    yield router
    router.write(router.plan)
    until(lambda: shown(router) == "" and router.get("/healthz").status == 200, "plain HTTP again")


def test_served_and_renewed(plain_again: RunningRouter, tmp_path: Path) -> None:
    router, first, second = plain_again, made(tmp_path, "first"), made(tmp_path, "second")
    router.write(router.plan, certificate=first)
    until(lambda: shown(router) == first.chain, "HTTPS")
    router.write(router.plan, certificate=second)
    until(lambda: shown(router) == second.chain, "the new certificate")


def test_the_key_is_in_its_own_file_only(tmp_path: Path) -> None:
    certificate, plan = made(tmp_path, "fleet"), rag_plan()
    files = router_files(plan, hosts=hosts_of(plan), folder="/r", certificate=certificate)
    line = certificate.key.splitlines()[3]
    assert [name for name, text in files.items() if line in text] == [TLS_FILE]
    hidden = masked(files, secrets.token_bytes(16))
    assert not [name for name, text in hidden.items() if line in text]
    assert certificate.chain.splitlines()[3] in hidden[TLS_FILE]
    assert line not in merged_static(files)
    assert line not in repr(certificate)


def test_what_is_no_certificate(tmp_path: Path) -> None:
    made(tmp_path, "one")
    made(tmp_path, "two")
    with pytest.raises(InputError, match="no certificate and its key: KEY_VALUES_MISMATCH"):
        read_certificate(tmp_path / "one.pem", tmp_path / "two.key")
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(InputError, match="no certificate and its key"):
        read_certificate(tmp_path / "junk", tmp_path / "one.key")
    with pytest.raises(InputError, match="no such file"):
        read_certificate(tmp_path / "nowhere", tmp_path / "one.key")

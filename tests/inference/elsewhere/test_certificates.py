"""A server elsewhere that cannot prove who it is gets neither key nor prompt."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.inference.elsewhere.conftest import Asking


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    return context


@pytest.fixture
def heard(self_signed: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server with that certificate, and what it was told on each connection, after the handshake."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        ending = threading.Event()

        def listen() -> None:
            while not ending.is_set():
                try:
                    raw, _ = listening.accept()
                except TimeoutError:
                    continue
                said.append(b"")
                raw.settimeout(1)
                with raw, suppress(OSError), self_signed.wrap_socket(raw, server_side=True) as connection:
                    said[-1] = connection.recv(1000)

        thread = threading.Thread(target=listen)
        thread.start()
        yield listening.getsockname()[1], said
        ending.set()
        thread.join()


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    heard: tuple[int, list[bytes]], elsewhere: Callable[..., Asking]
) -> None:
    port, said = heard
    asking = elsewhere(url=f"https://127.0.0.1:{port}/v1", api_key="sk-hush")
    assert not asking.model.ready
    asking.model.close()
    assert set(said) == {b""}

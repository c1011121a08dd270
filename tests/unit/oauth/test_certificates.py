"""Certificates for one machine: what openssl thinks of them, and what they are not good for."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from moonflower.federation.certificates import for_loopback


def test_the_certificate_is_for_this_machine_and_for_servers_only() -> None:
    made = for_loopback(datetime.now(UTC))
    certificate = x509.load_pem_x509_certificate(made.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert b"PRIVATE" not in made.ca + made.certificate
    assert b"PRIVATE" not in repr(made).encode()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_takes_the_chain_strictly(tmp_path: Path) -> None:
    made = for_loopback(datetime.now(UTC))
    (tmp_path / "ca.pem").write_bytes(made.ca)
    (tmp_path / "server.pem").write_bytes(made.certificate)
    line = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "server.pem"]
    said = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr

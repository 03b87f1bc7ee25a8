"""Certificates, keys and authorities from PEM files, with the sentences for those that are none."""

from __future__ import annotations

import ssl
from pathlib import Path

from wirecap.errors import UsageError


def load_chain(context: ssl.SSLContext, cert: str | None, key: str | None) -> None:
    """Take a certificate and its key, which may be in one file.  Raises UsageError."""
    assert cert
    _check_file("--tls-cert", cert)
    if key:
        _check_file("--tls-key", key)

    def no_password() -> bytes:
        raise UsageError(f"--tls-key {key or cert}: the key is encrypted", "openssl pkey -in KEY -out PLAIN opens it")

    try:
        context.load_cert_chain(cert, key, no_password)
    except (ssl.SSLError, ValueError) as error:
        given = f"--tls-cert {cert}" + (f" --tls-key {key}" if key else "")
        why = (
            "the key does not belong to the certificate" if "MISMATCH" in str(error) else "no certificate with its key"
        )
        raise UsageError(f"{given}: {why}", "both are PEM files; --tls-key names the key's") from None


def load_authorities(context: ssl.SSLContext, option: str, path: str) -> None:
    """Trust the authorities of a PEM file.  Raises UsageError."""
    _check_file(option, path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError):
        raise UsageError(f"{option} {path}: no certificate in it", "name a PEM file of certificates") from None


def _check_file(option: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{option} {path}: {reason}", "name a PEM file that you can read") from None

"""The key that signs the log: ``log.key`` in the state folder, and its public half ``log.pub`` beside it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ... import files
from ...crypto.note import Signer
from ...errors import InputError


def open_signer(folder: Path, name: str) -> Signer:
    """Return the log key of a state folder, created on first use (``log.key``, mode 0600, and ``log.pub``).

    Raises:
        InputError: the files cannot be written or read, are open to others, are not keys (config.key), or
            belong to a log of another name (config.state).
    """
    secret, public = folder / "log.key", folder / "log.pub"
    try:
        if not secret.exists():
            with suppress(FileExistsError):  # another process was faster: its key stays
                files.create(secret, f"{Signer.generate(name).text()}\n".encode(), 0o600)
        if secret.stat().st_mode & 0o077:
            raise InputError("config.key", f"{secret}: expected mode 0600", hint=f"chmod 600 {secret}")
        signer = Signer.parse(secret.read_text().removesuffix("\n"))
        if signer.name != name:
            raise InputError("config.state", f"{secret}: expected the key of {name!r}, got that of {signer.name!r}")
        text = signer.verifier.text() + "\n"
        if not public.exists():
            files.replace(public, text.encode())
        if public.read_text() != text:
            raise InputError("config.key", f"{public}: expected the public half of {secret.name}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("config.key", f"{folder}: the log key cannot be kept here: {error}") from error
    return signer

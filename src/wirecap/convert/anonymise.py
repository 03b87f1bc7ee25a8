"""Addresses that say nothing any more, prefixes kept: Crypto-PAn.

Two addresses that share their first n bits share them afterwards, too (J. Fan, J. Xu, M. Ammar and S. Moon,
"Prefix-preserving IP address anonymization", Computer Networks 46, 2004).  MAC addresses are treated alike, with their
group and local bits kept; the broadcast address and zero stay.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.convert.addresses import AddressTable
from wirecap.convert.inputs import WHOLE, Input
from wirecap.convert.outputs import Batch
from wirecap.errors import UsageError
from wirecap.kernels.convert import addresses as k
from wirecap.kernels.convert import anonymise as a
from wirecap.kernels.packet.headers import LINK_TYPES

KEY_BYTES = 32
_AT_ONCE = 4096  # addresses: with 128 blocks of 16 bytes each, 8 MB
_GROUP_AND_LOCAL = 3


def library() -> Any:
    """The ciphers, which only those need who anonymise."""
    try:
        from cryptography.hazmat.primitives import ciphers
    except ImportError:
        raise UsageError("the cryptography library is not installed", "pip install 'wirecap[anonymise]'") from None
    return ciphers


class CryptoPan:
    """The mapping that a key of 32 bytes stands for."""

    def __init__(self, key: bytes) -> None:
        aes = library()
        self._cipher: Any = aes.Cipher(aes.algorithms.AES(key[:16]), aes.modes.ECB()).encryptor()  # one block each
        self._pad = np.frombuffer(self._cipher.update(key[16:]), np.uint8)

    def replace(self, addresses: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
        """What the addresses become; uint8 (n, 16), of which the first ``bits`` (a multiple of 8) are the address."""
        found = addresses.copy()
        for first in range(0, len(addresses), _AT_ONCE):
            found[first : first + _AT_ONCE] ^= self._one_time_pads(addresses[first : first + _AT_ONCE], bits)
        return found

    def _one_time_pads(self, addresses: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
        """Bit i is the first bit of the encryption of the address's first i bits, followed by the pad's."""
        masks = np.packbits(np.tri(bits, 128, -1, np.uint8), axis=1)
        blocks = addresses[:, None, :] & masks | self._pad & ~masks
        encrypted = np.frombuffer(self._cipher.update(blocks.tobytes()), np.uint8).reshape(blocks.shape)
        pads = np.zeros_like(addresses)
        pads[:, : bits // 8] = np.packbits(encrypted[:, :, 0] >> 7, axis=1)
        return pads


class Anonymiser:
    """Replaces the addresses in the records of a batch."""

    def __init__(self, key_file: str, inputs: Sequence[Input]) -> None:
        library()  # before a key is made
        self._mapping, self._inputs = CryptoPan(read_key(key_file)), inputs
        self._table = AddressTable()
        self._scratch = np.zeros(a.SCRATCH + 1, np.int64)

    @staticmethod
    def kernels() -> list[Any]:
        return [a.anonymise, k.move]

    @property
    def unknown(self) -> int:
        """Packets so far without a network header that is known, of which at most the MAC addresses were replaced."""
        return int(self._scratch[a.SCRATCH])

    def apply(self, batch: Batch, snaplen: int) -> None:
        links, n, before = links_of(self._inputs), len(batch.slots), len(self._table)

        def run(first: int, replace: int) -> int:
            table = self._table.kernel
            return int(a.anonymise(
                batch.out, batch.rows, batch.slots, first, n, links, snaplen or WHOLE, table, replace, self._scratch
            ))  # fmt: skip

        self._table.go_through(n, lambda first: run(first, 0))
        self._work_out(before)
        run(0, 1)

    def _work_out(self, first: int) -> None:
        """What the addresses from number ``first`` on become."""
        addresses = self._table.bytes_of(first, len(self._table))
        kinds = self._table.kernel.entries[first : len(self._table), k.KIND]
        new = addresses.copy()
        for kind, bits in ((k.IPV4, 32), (k.IPV6, 128), (k.MAC, 48)):
            mine = kinds == kind
            new[mine] = self._mapping.replace(addresses[mine], bits)
        macs = kinds == k.MAC
        new[macs, 0] = new[macs, 0] & ~np.uint8(_GROUP_AND_LOCAL) | addresses[macs, 0] & _GROUP_AND_LOCAL
        self._table.replace(first, new)


def links_of(inputs: Sequence[Input]) -> NDArray[np.int64]:
    """For each row, which header its packets have; -1 for one that is not known."""
    return np.array([LINK_TYPES.get(row.linktype, -1) for one in inputs for row in one.rows], np.int64)


def read_key(path: str) -> bytes:
    """The key in a file: 64 hex digits, or 32 bytes.  Makes one, that only its owner can read, if there is none.

    Raises UsageError for a file that others can read, or that holds no key.
    """
    library()  # before a key is made that it could not use
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_key(path)
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}", "name a key file that can be written") from None
    key = secrets.token_bytes(KEY_BYTES)
    with os.fdopen(fd, "w") as file:
        file.write(key.hex() + "\n")
    return key


def _read_key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - fstat is of the file that is read
            mode, data = os.fstat(file.fileno()).st_mode, file.read(4 * KEY_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0)}", "a key file must be readable") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path}: others can read this key (mode {stat.S_IMODE(mode):04o})", f"chmod 600 {path}")
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(f"{path}: not a key", "a key is 64 hex digits; a file that is not there yet is made")
    return key

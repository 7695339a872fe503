"""Write zip archives as PyTorch lays them out: every entry stored, and its content at a multiple of 64 bytes.

``torch.load(mmap=True)`` can compute where a storage begins instead of looking it up: the layout is part of the format.
"""

import struct
import zlib
from typing import Any

ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF  # from here on a number goes into the zip64 extension
_SIZED_LATER = 0x0008
_UTF8 = 0x0800


class ZipWriter:
    """An archive that is written from front to back.

    Args:
        file: what it is written to: only ``write`` is called.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0
        self._directory: list[bytes] = []
        self.checksum = 0

    def add(self, name: str, content: Any) -> None:
        """Append an entry: a name and some bytes."""
        encoded = name.encode()
        size, offset, checksum = len(content), self._position, zlib.crc32(content)
        self.checksum = zlib.crc32(struct.pack("<I", checksum), self.checksum)
        flags = _UTF8 | _SIZED_LATER if size else _UTF8
        extra = _zip64(size if size >= _LIMIT else None, offset if offset >= _LIMIT else None)
        padding = -(offset + 30 + len(encoded) + len(extra) + 4) % ALIGNMENT
        local = extra + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        self._write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(encoded), len(local)))
        self._write(encoded)
        self._write(local)
        if size:
            self._write(content)
            self._write(struct.pack("<4sIQQ" if extra else "<4sIII", b"PK\7\x08", checksum, size, size))
        short = min(size, _LIMIT)
        fields = (0, 0, flags, 0, 0, 0, checksum, short, short, len(encoded), len(extra), 0, 0, 0, 0)
        entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields, min(offset, _LIMIT))
        self._directory.append(entry + encoded + extra)

    def close(self) -> None:
        """Write the directory, which makes the archive whole."""
        start, count = self._position, len(self._directory)
        for entry in self._directory:
            self._write(entry)
        size, end = self._position - start, self._position
        self._write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        few = min(count, 0xFFFF)
        self._write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, few, few, min(size, _LIMIT), min(start, _LIMIT), 0))

    def _write(self, content: Any) -> None:
        self._file.write(content)
        self._position += len(content)


def _zip64(size: int | None, offset: int | None) -> bytes:
    """Return the extension with the numbers that do not fit into 32 bits."""
    numbers = [n for n in (size, size, offset) if n is not None]
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""

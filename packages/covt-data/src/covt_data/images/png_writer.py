"""A PNG writer for palette images. On maps of tiles it is several times faster than a general writer."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE_8_BIT = (8, 3, 0, 0, 0)  # bit depth, color type "palette", deflate, adaptive filters, not interlaced


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def encode_palette_png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """Encode `pixels` [height, width] uint8, indices into `palette` [colors, 3] uint8 with at most 256 colors."""
    height, width = pixels.shape
    assert pixels.dtype == np.uint8 and palette.dtype == np.uint8 and 0 < len(palette) <= 256
    lines = np.zeros((height, width + 1), np.uint8)  # each scanline starts with its filter: 0, none
    lines[:, 1:] = pixels
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">II5B", width, height, *PALETTE_8_BIT)),
            _chunk(b"PLTE", palette.tobytes()),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)),
            _chunk(b"IEND", b""),
        )
    )

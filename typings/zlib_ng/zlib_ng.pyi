"""The part of zlib_ng that covt uses, typed: the package's own stub leaves its arguments untyped."""

class error(Exception): ...  # noqa: N801, N818 - zlib's name

class _Decompress:
    unused_data: bytes
    unconsumed_tail: bytes
    eof: bool
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...

def crc32(data: bytes, value: int = 0, /) -> int: ...
def decompressobj(wbits: int = 15) -> _Decompress: ...

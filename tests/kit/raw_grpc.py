"""A gRPC client that sends HTTP/2 frames which no library sends."""

import asyncio
from typing import Final

_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 0x1, 0x4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CANCEL: Final = (8).to_bytes(4, "big")


def reset_call(stream: int, path: str) -> bytes:
    """Return the frames of a call that is cancelled at once."""
    return _headers(stream, path) + _frame(_RST_STREAM, 0, stream, _CANCEL)


def gzip_call(stream: int, path: str, compressed: bytes) -> bytes:
    """Return the frames of a call with a message that is compressed with gzip."""
    message = b"\x01" + len(compressed).to_bytes(4, "big") + compressed
    return _headers(stream, path, ("grpc-encoding", "gzip")) + _frame(_DATA, _END_STREAM, stream, message)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection whose preface is sent."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, b""))
    return reader, writer


def _headers(stream: int, path: str, *more: tuple[str, str]) -> bytes:
    fields = (
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"), ("te", "trailers"),
        ("content-type", "application/grpc"), *more,
    )  # fmt: skip
    literals = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)  # not indexed, not compressed
    return _frame(_HEADERS, _END_HEADERS, stream, literals)


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

"""Frames: how this process speaks with the gateway and the control plane.

The same page as the Go package frame: a frame is its length (4 bytes,
little-endian, of all that follows), one byte for its kind, and the payload.
"""

import json
import struct

HELLO = ord("h")
REQUEST = ord("q")
REPLY = ord("s")
BEGIN = ord("b")
DATA = ord("d")
END = ord("e")
BROKEN = ord("x")

MAX_SIZE = 1 << 30  # bytes of a frame

_HEAD = struct.Struct("<IB")
_REQUEST = struct.Struct("<IH")
_REPLY = struct.Struct("<IBHI")
_SHORT = struct.Struct("<H")
_LONG = struct.Struct("<I")


class Malformed(Exception):
    """A frame that breaks the rules: the connection ends."""


def frame(kind, payload=b""):
    """The whole frame of any kind but a reply."""
    return _HEAD.pack(1 + len(payload), kind) + payload


def frame_head(kind, size):
    """A frame without its payload, which has size bytes."""
    return _HEAD.pack(1 + size, kind)


def hello(instance, pid):
    text = json.dumps({"protocol": 1, "instance": instance, "pid": pid})
    return frame(HELLO, text.encode())


def reply_head(kind, status, headers, size):
    """A reply (or its Begin) without its body, which has size bytes."""
    return _REPLY.pack(7 + len(headers) + size, kind, status, len(headers)) + headers


def split(buffer):
    """The first frame of buffer: (kind, payload, bytes it takes), or None when
    it is not all there yet."""
    if len(buffer) < 5:
        return None
    size, kind = _HEAD.unpack_from(buffer)
    if size < 1 or size > MAX_SIZE:
        raise Malformed("a frame of %d bytes" % size)
    if len(buffer) < 4 + size:
        return None
    return kind, bytes(memoryview(buffer)[5 : 4 + size]), 4 + size


def parse_request(p):
    """(timeout in ms, method, target, headers, body) of a request's payload,
    a bytes or a memoryview; method and target are bytes, headers and body of
    the payload's type."""
    n = len(p)
    if n < 6:
        raise Malformed("a request without its head")
    timeout, size = _REQUEST.unpack_from(p)
    at = 6 + size
    if not size or at + 2 > n:
        raise Malformed("a request that ends in its method")
    method = bytes(p[6:at])
    (size,) = _SHORT.unpack_from(p, at)
    at += 2
    if not size or at + size + 4 > n:
        raise Malformed("a request that ends in its target")
    target = bytes(p[at : at + size])
    at += size
    (size,) = _LONG.unpack_from(p, at)
    at += 4
    if at + size > n:
        raise Malformed("a request that ends in its headers")
    return timeout, method, target, p[at : at + size], p[at + size :]

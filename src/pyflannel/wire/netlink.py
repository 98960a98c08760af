"""Netlink framing: messages, attributes, errors (RFC 3549; linux/netlink.h). Numbers are in host byte order."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NLMSG_ERROR, NLMSG_DONE = 2, 3
F_REQUEST, F_MULTI, F_ACK, F_DUMP_INTR, F_DUMP = 1, 2, 4, 0x10, 0x300
F_REPLACE, F_EXCL, F_CREATE = 0x100, 0x200, 0x400
F_CAPPED, F_ACK_TLVS = 0x100, 0x200  # in an NLMSG_ERROR
NLMSGERR_ATTR_MSG = 1
NLA_TYPE_MASK, NLA_F_NESTED = 0x3FFF, 0x8000

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id of the sender
ATTR = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its type, flags, sequence number, sender's port id, and all that follows the header."""

    type: int
    flags: int
    seq: int
    pid: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A message to be sent; sequence number and acknowledgement are the socket's business."""

    type: int
    flags: int
    body: bytes


class NetlinkError(OSError):
    """The kernel's refusal: an errno, and its own words (extended ACK) where it gives them."""

    def __init__(self, errno: int, text: str = "") -> None:
        super().__init__(errno, text or os.strerror(errno))
        self.words = text

    def __str__(self) -> str:
        return f"{self.words} ({os.strerror(self.errno or 0)})" if self.words else os.strerror(self.errno or 0)


def pack(request: Request, seq: int, extra_flags: int = 0) -> bytes:
    """*request* as bytes, padded to the next message."""
    length = HEADER.size + len(request.body)
    head = HEADER.pack(length, request.type, request.flags | F_REQUEST | extra_flags, seq, 0)
    return head + request.body + bytes(-length % 4)


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = ATTR.size + len(payload)
    return ATTR.pack(length, kind) + payload + bytes(-length % 4)


def u32(kind: int, value: int) -> bytes:
    return ATTR.pack(8, kind) + value.to_bytes(4, "little" if _LITTLE else "big")


def u16(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=H", value))


def u8(kind: int, value: int) -> bytes:
    return attr(kind, bytes((value,)))


def text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def nest(kind: int, *attrs: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(attrs))


def messages(data: bytes) -> Iterator[Message]:
    """The messages in one datagram. Raises ValueError if a length runs over its end."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, seq, pid = HEADER.unpack_from(data, at)
        if length < HEADER.size or at + length > len(data):
            raise ValueError(f"netlink message of {length} bytes at {at} in a datagram of {len(data)}")
        yield Message(kind, flags, seq, pid, data[at + HEADER.size : at + length])
        at += length + (-length % 4)


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes in *data* from *start*: payload by type; the last of several wins. Stops at garbage."""
    found: dict[int, bytes] = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = ATTR.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += length + (-length % 4)
    return found


def error(message: Message) -> NetlinkError | None:
    """What an NLMSG_ERROR (or a DONE) says: None if it is an acknowledgement."""
    if len(message.body) < 4:
        return None
    (code,) = _ERRNO.unpack_from(message.body)
    if code == 0:
        return None
    words = ""
    if message.flags & F_ACK_TLVS:
        start = 4
        if message.type == NLMSG_ERROR:
            (echoed,) = struct.unpack_from("=I", message.body, 4)
            start += HEADER.size if message.flags & F_CAPPED else echoed + (-echoed % 4)
        words = attributes(message.body, start).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return NetlinkError(-code, words)


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"

"""A TCP relay before rforkd that changes what a client's OFFER or CHECK says, for connections without a key:
to rforkd it comes from another host than this one. As much of CBOR (RFC 8949) as rfork's messages have."""

import ctypes
import socket
import struct
import threading

PREFACE, HEADER = 16, 5
OFFER = {1: "OFFER", 10: "CHECK"}    # src/net/frame.h


def decode(data, at=0):
    """The item at `at`, and where the next one is. Texts stay bytes, for they are the kernel's: (text,)."""
    major, minor = data[at] >> 5, data[at] & 31
    at += 1
    if minor < 24:
        value = minor
    else:
        size = 1 << (minor - 24)
        value = int.from_bytes(data[at:at + size], "big")
        at += size
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major == 2:
        return data[at:at + value], at + value
    if major == 3:
        return data[at:at + value].decode("utf-8", "surrogateescape"), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = decode(data, at)
            items.append(item)
        return items, at
    if major == 5:
        members = {}
        for _ in range(value):
            name, at = decode(data, at)
            members[name], at = decode(data, at)
        return members, at
    return {20: False, 21: True, 22: None}[minor], at


def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for minor, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | minor]) + value.to_bytes(size, "big")
    raise ValueError(value)


def encode(item):
    if item is False or item is True or item is None:
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        data = item.encode("utf-8", "surrogateescape")
        return head(3, len(data)) + data
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(map(encode, item))
    return head(5, len(item)) + b"".join(encode(part) for pair in item.items() for part in pair)


def receive(source, size):
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise OSError("the connection ended")
        data += more
    return data


class AlteringProxy:
    """Relays to `to`, which sees a connection of the user `uid`; `alter(offer)` changes each offer, a dict, on its
    way."""

    def __init__(self, to, alter, uid=0):
        host, port = to.rsplit(":", 1)
        self.to, self.alter, self.uid = (host, int(port)), alter, uid
        self.seen = 0    # offers that were altered
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        sys_setfsuid = 122    # of this thread alone
        ctypes.CDLL(None).syscall(sys_setfsuid, self.uid)
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.to)
            for way in (self.up, self.down):
                threading.Thread(target=self.relay, args=(way, client, server), daemon=True).start()

    def relay(self, way, client, server):
        try:
            way(client, server)
        except OSError:
            pass
        for end in (client, server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def up(self, client, server):
        server.sendall(receive(client, PREFACE))
        first = receive(client, HEADER)
        size, kind = struct.unpack("<IB", first)
        body = receive(client, size)
        if kind in OFFER:
            offer, _ = decode(body)
            if encode(offer) != body:
                raise ValueError("an offer isn't what it was after decoding and encoding")
            self.alter(offer)
            self.seen += 1
            body = encode(offer)
            first = struct.pack("<IB", len(body), kind)
        server.sendall(first + body)
        self.pump(client, server)

    def down(self, client, server):
        self.pump(server, client)

    @staticmethod
    def pump(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)

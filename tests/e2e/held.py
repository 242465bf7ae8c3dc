#!/usr/bin/python3
"""TCP connections of a process that is moved into a file: held until it goes on. held.py CASE root|user

talk:    a conversation goes on, three times in a row; what is said meanwhile is answered afterwards.
bulk:    large queues both ways, and more that comes while the image lies there: no byte is lost or doubled.
half:    half-closed connections, either way.
server:  a server with its listening socket, without SO_REUSEADDR, and 300 connections.
redis:   a program that nobody here wrote.
ssh:     a client of ssh, mid-session.
exec:    an image that runs by itself.
"""

import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import harness
import ssh
from harness import expect

TALK = """
import socket, sys
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("fd", one.fileno(), flush=True)
stream = one.makefile("rwb")
for line in stream:
    stream.write(b"heard " + line)
    stream.flush()
"""
# Reads nothing before it is told to, and has written more than fits.
BULK = """
import hashlib, os, socket, sys, threading
one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
folder, size = sys.argv[2], int(sys.argv[3])
data = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(size // 32))
def write():
    one.sendall(data)
    one.shutdown(socket.SHUT_WR)
writer = threading.Thread(target=write)
writer.start()
print("fd", one.fileno(), flush=True)
import time
while not os.path.exists(folder + "/go"): time.sleep(0.01)
digest, count = hashlib.sha256(), 0
while part := one.recv(65536):
    digest.update(part)
    count += len(part)
writer.join()
with open(folder + "/read.part", "w") as out: out.write(f"{count} {digest.hexdigest()}")
os.rename(folder + "/read.part", folder + "/read")
"""
HALF = """
import socket, sys
reads, writes = (socket.create_connection(("127.0.0.1", int(port))) for port in sys.argv[1:3])
reads.shutdown(socket.SHUT_WR)
print("fd", reads.fileno(), flush=True)
while True:
    part = reads.recv(10)
    writes.sendall(b"got " + part + b";")
    if not part: break
writes.close()
"""
SERVER = """
import selectors, socket, sys
one = socket.socket()
one.bind(("127.0.0.1", 0))
one.listen(400)
print("port", one.getsockname()[1], flush=True)
selector = selectors.DefaultSelector()
selector.register(one, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is one:
            selector.register(one.accept()[0], selectors.EVENT_READ)
            continue
        line = key.fileobj.recv(100)
        if line: key.fileobj.sendall(b"heard " + line)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""


class Peer:
    """The other end, in this test."""

    def __init__(self, world, program, *arguments, listeners=1):
        self.listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(listeners)]
        ports = [one.getsockname()[1] for one in self.listening]
        self.process = world.start(["/usr/bin/python3", "-c", program, *ports, *arguments])
        self.ends = [one.accept()[0] for one in self.listening]
        for end in self.ends:
            end.settimeout(harness.DEADLINE)
        self.end = self.ends[0]
        word, self.fd = self.process.line().split()
        expect(word == "fd", "the program is connected")
        self.pid = self.process.pid
        self.text = b""

    def say(self, text):
        self.end.sendall(text.encode() + b"\n")

    def hears(self, text):
        while b"\n" not in self.text:
            part = self.end.recv(1000)
            expect(part, f"the connection ended, and {text!r} was expected")
            self.text += part
        line, _, self.text = self.text.partition(b"\n")
        expect(line.decode() == text, f"{text!r} was expected, not {line!r}")


def move(world, pid, image, *options):
    said = world.trace("--move", "--keep-tcp", *options, pid, "-o", image).expect(0, err="holds the TCP connection")
    return int(said.err.split("process ")[1].split()[0])


def run(world, image, *options, program=None):
    """rfork-run in the background; gives the child's pid."""
    argv = program or [world.program("rfork-run"), image]
    said = world.run([argv[0], *(["--"] if program else []), "-d", *options, *argv[1:]]).expect(0, out="pid ")
    return int(said.out.split()[1])


def gone(pid):
    try:
        return open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def private_kib(pid):
    rollup = open(f"/proc/{pid}/smaps_rollup", encoding="utf-8").read()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))


def talk(world):
    peer = Peer(world, TALK)
    peer.say("one")
    peer.hears("heard one")
    pid = peer.pid
    for turn in range(3):
        image = world.folder / f"image-{turn}.rfork"
        holder = move(world, pid, image)
        if turn == 0:
            expect(peer.process.wait().code == -signal.SIGKILL, "the original has ended")
        look_at_holder(holder)
        peer.say(f"meanwhile {turn}")
        time.sleep(0.1)
        pid = run(world, image)
        harness.wait_until(lambda: gone(holder), "the holder ends when all is taken on")
        peer.hears(f"heard meanwhile {turn}")
        peer.say("more")
        peer.hears("heard more")
        expect(f"{peer.fd}" in os.listdir(f"/proc/{pid}/fd"), "the descriptor has its number")
    peer.end.close()
    harness.wait_until(lambda: gone(pid), "the child sees the end")


def look_at_holder(holder):
    expect(private_kib(holder) < 4096, f"the holder has {private_kib(holder)} KiB of its own")
    status = open(f"/proc/{holder}/stat", encoding="utf-8").read().rpartition(")")[2].split()
    expect(int(status[3]) == holder or os.getsid(holder) != os.getsid(0), "the holder is in a session of its own")
    links = [os.readlink(f"/proc/{holder}/fd/{fd}") for fd in os.listdir(f"/proc/{holder}/fd")]
    others = [link for link in links if not link.startswith("socket:") and link != "/dev/null"]
    expect(not others and len(links) == 5, f"the holder has nothing else open: {links}")
    before = sum(map(int, status[11:13]))
    time.sleep(0.2)
    after = open(f"/proc/{holder}/stat", encoding="utf-8").read().rpartition(")")[2].split()
    expect(sum(map(int, after[11:13])) == before, "the holder uses no processor time")


def bulk(world):
    size = 32 << 20
    peer = Peer(world, BULK, world.folder, size)
    peer.end.setblocking(False)
    data = bytes(range(251)) * 200_000
    sent = fill(peer.end, data, 0)
    # The writer's buffers are full, too: bytes are on their way, unread, on both sides.
    image = world.folder / "image.rfork"
    holder = move(world, peer.pid, image)
    received = bytearray()
    for _ in range(20):  # the kernel acknowledges, and gives, on behalf of who is in the file
        drain(peer.end, received)
        sent = fill(peer.end, data, sent)
        time.sleep(0.01)
    expect(not gone(holder), "the holder stays")
    pid = run(world, image)
    world.go()
    finish_bulk(peer.end, data, sent, received)
    harness.wait_until(lambda: (world.folder / "read").exists(), "the child has read all")
    count, digest = (world.folder / "read").read_text().split()
    expect(int(count) == len(data) and digest == hashlib.sha256(data).hexdigest(), "the child read what was written")
    written = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(size // 32))
    expect(bytes(received) == written, f"{len(received)} bytes came of {len(written)}")
    harness.wait_until(lambda: gone(pid), "the child ends")


def fill(end, data, sent):
    try:
        while sent < len(data):
            sent += end.send(data[sent:sent + 65536])
    except BlockingIOError:
        pass
    return sent


def drain(end, received):
    try:
        while part := end.recv(65536):
            received += part
        return True
    except BlockingIOError:
        return False


def finish_bulk(end, data, sent, received):
    ended = shut = False
    until = time.monotonic() + harness.DEADLINE
    while not (ended and shut):
        expect(time.monotonic() < until, f"sent {sent}, received {len(received)}")
        sent = fill(end, data, sent)
        if sent == len(data) and not shut:
            end.shutdown(socket.SHUT_WR)
            shut = True
        ended = ended or drain(end, received)
        time.sleep(0.001)


def half(world):
    peer = Peer(world, HALF, listeners=2)
    first, second = peer.ends
    expect(first.recv(1) == b"", "it writes no more on the first")
    second.shutdown(socket.SHUT_WR)  # and reads nothing from the second
    first.sendall(b"before")
    expect(second.recv(100) == b"got before;", "it answers on the other")
    image = world.folder / "image.rfork"
    first.sendall(b"queued")
    move(world, peer.pid, image)
    first.sendall(b" and late")
    first.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    pid = run(world, image)
    said = b""
    while part := second.recv(1000):
        said += part
    expect(said.replace(b";got ", b"").replace(b"got ", b"").replace(b";", b"") == b"queued and late", f"{said}")
    expect(said.endswith(b"got ;"), "the end came last")
    harness.wait_until(lambda: gone(pid), "the child ends")


def connect(port):
    one = socket.create_connection(("127.0.0.1", port), harness.DEADLINE)
    one.settimeout(harness.DEADLINE)
    return one


def ask(end, text):
    end.sendall(text)
    expect(end.recv(1000) == b"heard " + text, f"{text} is heard")


def server(world):
    process = world.start(["/usr/bin/python3", "-c", SERVER])
    port = int(process.line().split()[1])
    ends = [connect(port) for _ in range(300)]
    for number, end in enumerate(ends):
        ask(end, b"%d" % number)
    image = world.folder / "image.rfork"
    move(world, process.pid, image)
    for number, end in enumerate(ends):
        end.sendall(b"again %d" % number)
    pid = run(world, image)
    for number, end in enumerate(ends):
        expect(end.recv(1000) == b"heard again %d" % number, "all are answered")
    ask(connect(port), b"a new one")
    os.kill(pid, signal.SIGTERM)
    expect(ends[0].recv(1) == b"", "the end is seen")


def redis(world):
    if not shutil.which("redis-server"):
        raise harness.Skip("redis-server isn't installed")
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    process = world.start(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", world.folder])
    harness.wait_until(lambda: serves(port), "redis-server serves")
    one, two = connect(port), connect(port)
    command(one, "SET counter 41\r\n", b"+OK\r\n")
    command(two, "SUBSCRIBE news\r\n", b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
    command(one, "MULTI\r\n", b"+OK\r\n")
    command(one, "INCR counter\r\n", b"+QUEUED\r\n")
    image = world.folder / "image.rfork"
    move(world, process.pid, image)
    one.sendall(b"EXEC\r\n")
    pid = run(world, image)
    command(one, "", b"*1\r\n:42\r\n")
    command(one, "PUBLISH news hello\r\n", b":1\r\n")
    command(two, "", b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n")
    os.kill(pid, signal.SIGTERM)
    harness.wait_until(lambda: gone(pid), "redis-server ends as told")


def serves(port):
    try:
        connect(port).close()
        return True
    except OSError:
        return False


def command(end, text, answer):
    end.sendall(text.encode())
    said = b""
    while len(said) < len(answer):
        part = end.recv(len(answer) - len(said))
        expect(part, f"{answer} was expected, {said} came")
        said += part
    expect(said == answer, f"{answer} was expected, {said} came")


def ssh_client(world):
    folder = ssh.Sshd(world).folder
    data, back = world.folder / "data", world.folder / "back"
    data.write_bytes(random.Random(1).randbytes(64 << 20))
    with open(data, "rb") as source, open(back, "wb") as sink, open(world.folder / "said", "wb") as said:
        client = world.start(["ssh", "-F", folder / "ssh_config", "there", "cat; echo ended >&2; exit 7"],
                             stdin=source, stdout=sink, stderr=said)
    pid = client.pid
    for turn in range(2):
        seen = back.stat().st_size
        harness.wait_until(lambda: back.stat().st_size > seen + (1 << 20), "bytes come back")
        move(world, pid, world.folder / f"image-{turn}.rfork")
        if turn == 0:
            expect(client.wait().code == -signal.SIGKILL, "the original has ended")
            expect(back.stat().st_size < data.stat().st_size, "it was in the middle")
            pid = run(world, world.folder / "image-0.rfork")
    world.run([world.program("rfork-run"), world.folder / "image-1.rfork"]).expect(7)
    expect(back.read_bytes() == data.read_bytes(), "all came back as it was")
    expect((world.folder / "said").read_text() == "ended\n", "what the session said is there")


def self_running(world):
    peer = Peer(world, TALK)
    image = world.folder / "job"
    move(world, peer.pid, image, "--exec")
    peer.say("meanwhile")
    run(world, None, program=[image])
    peer.hears("heard meanwhile")
    peer.end.close()


CASES = {"talk": talk, "bulk": bulk, "half": half, "server": server, "redis": redis, "ssh": ssh_client,
         "exec": self_running}

if __name__ == "__main__":
    os.environ.pop("RFORK_KEY", None)
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

#!/usr/bin/python3
"""TCP connections that go on at another host, to which their address moves: moved_address.py CASE

Three hosts at one cable: the peer, the origin with the address that moves, and the destination. Both ends of each
connection send megabytes with a known sum, and read slowly at first, so that queues are full when the process is frozen.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import harness
from harness import CANNOT_CARRY, REFUSED, expect, wait_until

# What either end does with its connections: arguments are the role, the address of who listens, its port, how many
# connections each way, and bytes to send on each at least: until there is the file "go". What is sent is known to both.
ENDS = r"""
import hashlib, os, signal, socket, sys, threading, time
role, here, there, port, count, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
def stream(seed):
    block = hashlib.sha256(seed.encode()).digest() * 2048
    while True:
        yield block
        block = block[7:] + hashlib.sha256(block[:64]).digest()[:7]
def write(talk, seed):
    for number, part in enumerate(stream(seed)):
        enough = number * len(part) >= size
        if enough and os.path.exists("go"): break
        talk.sendall(b"+" + part)
        if enough or number % 4 == 0: time.sleep(0.03)
    talk.sendall(b".")
def read(talk, seed, slow):
    got, ahead = 0, b""
    if slow: time.sleep(1.5)
    for number, part in enumerate(stream(seed)):
        for want in (1, len(part)):
            while len(ahead) < want:
                data = talk.recv(50000)
                if not data: raise RuntimeError(f"{seed}: the end after {got} bytes")
                got += len(data); ahead += data
            head, ahead = ahead[:want], ahead[want:]
            if head == b".": return done.append(seed)
            if want > 1 and head != part: raise RuntimeError(f"{seed}: other bytes than were sent, near {got}")
        if slow and number % 8 == 0: time.sleep(0.005)
def guarded(function, *arguments):
    try: function(*arguments)
    except BaseException as error:
        print(f"{role}: {function.__name__} {arguments[1]}: {error!r}", flush=True)
        os._exit(1)
family = socket.AF_INET6 if ":" in here else socket.AF_INET
own = socket.create_server((here, port), family=family, backlog=64)
talks = []
if role == "moves":
    signal.signal(signal.SIGALRM, lambda *_: None)  # waits in front of whatever signal holds a frozen process
    signal.setitimer(signal.ITIMER_REAL, 0.004, 0.004)
    print("listens", flush=True)
    for i in range(count): talks.append((own.accept()[0], f"in {i}"))
    for i in range(count): talks.append((socket.create_connection((there, port), source_address=(here, 0)), f"out {i}"))
else:
    for i in range(count): talks.append((socket.create_connection((there, port)), f"in {i}"))
    for i in range(count): talks.append((own.accept()[0], f"out {i}"))
done, threads = [], []
for number, (talk, name) in enumerate(talks):
    threads.append(threading.Thread(target=guarded, args=(write, talk, role + name)))
    other = "stays" if role == "moves" else "moves"
    threads.append(threading.Thread(target=guarded, args=(read, talk, other + name, number % 2 == 0)))
print("ready", flush=True)
for one in threads: one.start()
for one in threads: one.join()
signal.setitimer(signal.ITIMER_REAL, 0)
if len(done) != len(talks): os._exit(1)
print("all is there", flush=True)
if role == "moves":
    last, _ = own.accept()
    last.sendall(b"still listening")
    last.close()
else:
    with socket.create_connection((there, port), 20) as last: print(last.recv(100).decode(), flush=True)
    for talk, _ in talks:
        if talk.recv(1) != b"": os._exit(2)
"""


class Cable:
    """The peer, the origin and the destination; `moving` is at the origin."""

    def __init__(self, world):
        self.peer, self.origin = harness.Host(world, "peer", False), harness.Host(world, "host-a", False)
        self.destination = harness.Host(world, "host-b", True)
        net = f"10.{random.randrange(256)}.{random.randrange(256)}"
        self.peer.call("ip", "link", "add", "bridge", "type", "bridge")
        for host, number in ((self.peer, 1), (self.origin, 2), (self.destination, 3)):
            host.address, host.six, host.device = f"{net}.{number}", f"fd00:77::{number}", "bridge"
            if host is not self.peer:
                host.device = "eth"
                subprocess.run(["ip", "link", "add", "eth", "netns", str(host.pid), "type", "veth",
                                "peer", "name", f"port-{number}", "netns", str(self.peer.pid)], check=True)
                self.peer.call("ip", "link", "set", f"port-{number}", "master", "bridge", "up")
            host.call("ip", "address", "add", f"{host.address}/24", "dev", host.device)
            host.call("ip", "address", "add", f"{host.six}/64", "dev", host.device, "nodad")
            host.call("ip", "link", "set", host.device, "up")
            host.call("ip", "link", "set", "lo", "up")
        self.moving = {4: f"{net}.9", 6: "fd00:77::9"}
        for address in self.moving.values():
            self.add(self.origin, address)

    def add(self, host, address):
        host.call("ip", "address", "add", address + ("/64" if ":" in address else "/24"), "dev", host.device,
                  *(["nodad"] if ":" in address else []))

    def remove(self, host, address):
        host.call("ip", "address", "del", address + ("/64" if ":" in address else "/24"), "dev", host.device)

    def forget_neighbours(self):
        for host in (self.peer, self.origin, self.destination):
            host.call("ip", "neigh", "flush", "all")


def tables(host):
    """Tables of nf_tables, seen by what they do: their hooks (the program nft isn't everywhere)."""
    probe = "import socket,struct\ns=socket.socket(16,3,12)\nm=struct.pack('=IHHII',20,(10<<8)|1,0x301,1,0)+bytes([0,0,0,0])\n" \
            "s.send(m)\nn=0\nwhile 1:\n  d=s.recv(65536)\n  while d:\n    l,t=struct.unpack_from('=IH',d)\n" \
            "    if t==3: print(n); raise SystemExit\n    n+=t==(10<<8)\n    d=d[(l+3)&~3:]\n"
    return int(subprocess.run([*host.enter, sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout)


def started(world, cable, version=4, count=2, size=24 << 20, who=(), endless=False):
    """Both ends, and the process that is to move."""
    moving, port = cable.moving[version], random.randrange(20000, 30000)
    stays = cable.peer.address if version == 4 else cable.peer.six
    moves = world.start([*who, sys.executable, "-c", ENDS, "moves", moving, stays, port, count, size], host=cable.origin)
    expect(moves.line() == "listens", "it listens")
    peer = world.start([sys.executable, "-c", ENDS, "stays", stays, moving, port, count, size], host=cable.peer)
    expect(moves.line() == "ready" and peer.line() == "ready", "they are connected")
    if not endless:
        world.go()
    time.sleep(0.5)
    return moves, peer


MOVE = ["--move", "--keep-tcp", "--no-ghost", "--json"]


def moved(world, cable, early=False, version=4, count=2, size=24 << 20):
    daemon = harness.Daemon(world, cable.destination)
    moves, peer = started(world, cable, version, count, size)
    address = cable.moving[version]
    if early:
        cable.add(cable.destination, address)
    said = world.trace(*MOVE, moves.pid, daemon.address, host=cable.origin, key=daemon.key).expect(0).json()
    expect(said["addresses"] == [address], f"{said}")
    expect(tables(cable.origin) == 1 and pathlib.Path(f"/proc/{said['silence_pid']}").exists(), "the origin is silent")
    cable.remove(cable.origin, address)
    if not early:
        cable.add(cable.destination, address)
    cable.forget_neighbours()
    wait_until(lambda: not pathlib.Path(f"/proc/{said['silence_pid']}").exists(), "the silence ends with the address")
    expect(tables(cable.origin) == 0 and tables(cable.destination) == 0, "no table is left")
    peer.wait().expect(0, out=["all is there", "still listening"])
    daemon.finished(daemon.child_id()).expect(0, out="all is there")


def late(world):
    """The address moves when the process has."""
    moved(world, Cable(world))


def early(world):
    """The destination has the address before."""
    moved(world, Cable(world), early=True)


def six(world):
    moved(world, Cable(world), version=6)


def many(world):
    """More than fit into one message, with a socket that listens at their port."""
    moved(world, Cable(world), count=120, size=1 << 20)


def ghost(world):
    """The original's pid stays, and so does the silence."""
    cable = Cable(world)
    daemon = harness.Daemon(world, cable.destination)
    moves, peer = started(world, cable)
    said = world.trace("--move", "--keep-tcp", "--json", moves.pid, daemon.address, host=cable.origin, key=daemon.key)
    expect(said.expect(0).json()["addresses"] == [cable.moving[4]] and moves.running(), f"{said}")
    cable.add(cable.destination, cable.moving[4])
    cable.remove(cable.origin, cable.moving[4])
    cable.forget_neighbours()
    peer.wait().expect(0, out=["all is there", "still listening"])
    moves.wait().expect(0, out="all is there")


def goes_on(cable, moves, peer):
    """The original has its connections, all that was sent arrives, and nothing of the attempt is left."""
    wait_until(lambda: tables(cable.origin) == 0 and tables(cable.destination) == 0, "no table is left")
    said = peer.wait()
    if said.code != 0:
        moves.signal(signal.SIGTERM)
        raise harness.Failed(f"the peer: {said.out} {said.err}\nthe original: {moves.wait().err} {moves.wait().code}")
    said.expect(0, out=["all is there", "still listening"])
    moves.wait().expect(0, out="all is there")


def refused(world):
    """Where it can't be, it is said by name before the process is frozen, and --check says the same."""
    cable = Cable(world)
    moves, peer = started(world, cable, size=8 << 20)
    weak = harness.Daemon(world, cable.destination, program=["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
                                                             world.program("rforkd")])
    good = harness.Daemon(world, cable.destination)
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", world.program("rfork-trace")]
    plain = MOVE[:-1]
    world.trace(*plain, moves.pid, weak.address, host=cable.origin, key=weak.key) \
         .refused(REFUSED, "CAP_NET_ADMIN, which rforkd lacks", "leave --keep-tcp out")
    world.run([*without, "--key", good.key, *plain, moves.pid, good.address], host=cable.origin) \
         .refused(CANNOT_CARRY, "takes CAP_NET_ADMIN", "run rfork-trace as root")
    for daemon, argv in ((weak, [world.program("rfork-trace")]), (good, without)):
        said = world.run([*argv, "--check", "--key", daemon.key, *MOVE, moves.pid, daemon.address], host=cable.origin)
        expect(said.code in (REFUSED, CANNOT_CARRY) and "CAP_NET_ADMIN" in said.out, f"{said}")
    said = world.trace("--check", *MOVE, moves.pid, good.address, host=cable.origin, key=good.key).expect(0)
    expect(said.out.count("kept by TCP_REPAIR") == 4, f"{said}")
    goes_on(cable, moves, peer)


def lost(world):
    """The destination dies when all is frozen: the original goes on, and so do its connections."""
    cable = Cable(world)
    moves, peer = started(world, cable)
    for delay in (0.02, 0.05, 0.1, 0.2):
        daemon = harness.Daemon(world, cable.destination)
        trace = world.start_trace(*MOVE, moves.pid, daemon.address, host=cable.origin, key=daemon.key)
        wait_until(lambda: tables(cable.origin) > 0 or not trace.running(), "it is silent")
        time.sleep(delay / 10)
        for pid in harness.children_of(daemon.pid) + [daemon.pid]:
            os.kill(pid, signal.SIGKILL)
        trace.wait()
        if trace.ended.code == 0:
            break
        wait_until(lambda: tables(cable.origin) == 0, "the silence is over")
    goes_on(cable, moves, peer)


def interrupted(world):
    killed(world, signal.SIGINT)


def user(world):
    """An ordinary user's process, moved by root: only where whoever has the key may be root."""
    world.folder.chmod(0o711)
    cable = Cable(world)
    moves, peer = started(world, cable, who=["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"])
    timid = harness.Daemon(world, cable.destination, "--allow-user", "nobody")
    world.trace(*MOVE[:-1], moves.pid, timid.address, host=cable.origin, key=timid.key) \
         .refused(REFUSED, "rforkd does for nobody what only root may", "--allow-root")
    daemon = harness.Daemon(world, cable.destination, "--allow-user", "nobody", "--allow-root")
    world.trace(*MOVE, moves.pid, daemon.address, host=cable.origin, key=daemon.key).expect(0)
    cable.remove(cable.origin, cable.moving[4])
    cable.add(cable.destination, cable.moving[4])
    cable.forget_neighbours()
    peer.wait().expect(0, out=["all is there", "still listening"])
    daemon.finished(daemon.child_id()).expect(0, out="all is there")


def killed(world, number_of_signal=signal.SIGKILL):
    """rfork-trace is killed at any moment: one of both has the connections, and nothing is lost."""
    cable = Cable(world)
    moves, peer = started(world, cable, size=16 << 20, endless=True)
    daemon = harness.Daemon(world, cable.destination)
    there = False
    log = daemon.process.log
    for number in range(24):
        announced = log.read_text().count(", a move,")
        trace = world.start_trace(*MOVE, moves.pid, daemon.address, host=cable.origin, key=daemon.key)
        if number % 3:  # when the destination has accepted it, and it is about to be frozen and read
            wait_until(lambda: log.read_text().count(", a move,") > announced or not trace.running(), "it is announced")
            time.sleep(random.uniform(0, 0.04))
        else:
            time.sleep(random.uniform(0.02, 0.4))
        trace.signal(number_of_signal)
        trace.wait()
        wait_until(lambda: all(child["state"] in ("running", "ended") for child in daemon.children()), "it is decided")
        there = bool(daemon.living())
        if there:
            break
        wait_until(lambda: tables(cable.origin) == 0 and tables(cable.destination) == 0, lambda: f"{number}: no table is left")
        if not (moves.running() and peer.running()):
            raise harness.Failed(f"after {number + 1} tries: {moves.kill()}\n{peer.kill()}")
        time.sleep(0.2)
    world.go()
    if not there:
        return goes_on(cable, moves, peer)
    cable.remove(cable.origin, cable.moving[4])
    cable.add(cable.destination, cable.moving[4])
    cable.forget_neighbours()
    peer.wait().expect(0, out=["all is there", "still listening"])
    daemon.finished(daemon.child_id()).expect(0, out="all is there")


CASES = {"late": late, "early": early, "six": six, "many": many, "ghost": ghost, "refused": refused, "lost": lost, "killed": killed,
         "interrupted": interrupted, "user": user}

if __name__ == "__main__":
    os.environ.pop("RFORK_KEY", None)
    if os.geteuid() != 0:
        sys.exit(77)
    harness.main(CASES[sys.argv[1]])

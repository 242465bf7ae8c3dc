#!/usr/bin/python3
"""Images through a directory that both hosts see: spool.py CASE root|user

copy, move    two hosts; the spool is empty afterwards, nobody keeps the file open, a ghost works
rfork         rfork() with RFORK_SPOOL; -o has nothing to do with it
big           few bytes on the connection, no more memory than without
slow          writing takes long: both ends hear that the other is there
users         as root: a process of another user's, through a spool of root's, and through everybody's
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import harness
from harness import REFUSED, expect, wait_until
from proxy import Proxy, reset

NAME = re.compile(r"rfork-[0-9a-f]{32}\.spool")
OFFER, END, WAITING = 1, 4, 25

SLEEPER = r'''
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    word, _, value = line.strip().partition(" ")
    if word == "exit": sys.exit(int(value))
    print("out", line.strip(), flush=True)
'''

FILLED = r'''
import os, sys, time
block = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
print("ready", flush=True)
while not os.path.exists(sys.argv[2]): time.sleep(0.01)
print("ok" if block[:1 << 20] == block[-(1 << 20):] else "harmed", flush=True)
'''


class Spool:
    """A directory that is every host's."""

    def __init__(self, world, name="spool"):
        self.path = world.folder / name
        self.path.mkdir()
        if world.user:
            self.path.chmod(0o777)

    def __str__(self):
        return str(self.path)

    def names(self):
        return sorted(os.listdir(self.path))

    def file(self):
        names = [name for name in self.names() if NAME.fullmatch(name)]
        return self.path / names[0] if names else None

    def size(self):
        try:
            return self.file().stat().st_size
        except (AttributeError, FileNotFoundError):
            return 0

    def empty(self, context=""):
        wait_until(lambda: self.names() == [], lambda: f"nothing is left in the spool: {self.names()} {context}", 20)


class Meddler(Proxy):
    """A relay that shows what a client of a daemon without key says, frame by frame, before it goes on."""

    def __init__(self, to, meddle):
        self.meddle = meddle
        self.kinds = {"up": [], "down": []}
        super().__init__(to)

    def relay(self, way, source, sink, first):
        try:
            sink.sendall(read(source, 16))
            while True:
                header = read(source, 5)
                body = read(source, int.from_bytes(header[:4], "little"))
                self.kinds[way].append(header[4])
                if way == "up":
                    body = self.meddle(header[4], body) or body
                sink.sendall(len(body).to_bytes(4, "little") + header[4:] + body)
        except OSError:
            for end in (source, sink):
                reset(end)


def read(source, size):
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise OSError("the end")
        data += piece
    return data


def filled(world, mebibytes, host=None):
    """A process with as much memory, that knows what is in it."""
    process = world.start(["/usr/bin/python3", "-u", "-c", FILLED, str(mebibytes), world.folder / "go"], host=host)
    expect(process.line() == "ready", "the program isn't ready")
    process.real_pid = process.pid
    return process


def unharmed(world, process):
    expect(process.running(), "the original ended")
    world.go()
    process.wait().expect(0, out="ok\n")


def open_spooled():
    """Who has a spooled file open: none may, once its child runs."""
    found = []
    for link in pathlib.Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if ".spool" in os.readlink(link):
                found.append(f"{link}: {os.readlink(link)}")
        except OSError:
            pass
    return found


def copy(world):
    here, there = world.two_hosts()
    spool = Spool(world)
    daemon = harness.Daemon(world, there, "--spool", spool)
    target = world.target("steady", host=here)
    said = world.trace(target.real_pid, "--spool", spool, daemon.address, host=here, key=daemon.key)
    said.expect(0, err=f" through {spool} in ")
    spool.empty()
    child = daemon.child_id()
    said = world.trace(target.real_pid, "--spool", spool, "--json", daemon.address, host=here, key=daemon.key)
    result = said.expect(0, err="").json()
    expect(result["wire_bytes"] < 200_000 < result["image_bytes"], f"{said}")
    other = daemon.child_id(known=[child])
    spool.empty()
    expect(open_spooled() == [], f"open still: {open_spooled()}")
    world.go()
    for ended in (target.wait(), daemon.finished(child), daemon.finished(other)):
        ended.expect(0, out="ok\n")


def move(world):
    """With a ghost: the child is attended to for long after its image came."""
    here, there = world.two_hosts()
    spool = Spool(world)
    daemon = harness.Daemon(world, there, "--spool", spool)
    process = subprocess.Popen(here.enter + world.drop + ["/usr/bin/python3", "-u", "-c", SLEEPER], text=True,
                               cwd=world.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    expect(process.stdout.readline() == "ready\n", "the program isn't ready")
    world.trace("--move", "--spool", spool, process.pid, daemon.address, host=here, key=daemon.key).expect(0)
    spool.empty()
    expect(open_spooled() == [], f"open still: {open_spooled()}")
    process.stdin.write("hello\n")
    process.stdin.flush()
    expect(process.stdout.readline() == "out hello\n", "the ghost passes nothing on")
    process.stdin.write("exit 9\n")
    process.stdin.flush()
    expect(process.wait(20) == 9, f"exit status {process.returncode}")
    target = world.target("steady", host=here)
    world.trace("--move", "--no-ghost", "--spool", spool, target.real_pid, daemon.address, host=here,
                key=daemon.key).expect(0)
    expect(target.wait().code == -signal.SIGKILL, "the original still runs")
    world.go()
    daemon.finished(str(daemon.living()[0]["id"])).expect(0, out="ok\n")
    spool.empty()


def rfork(world):
    here, there = world.two_hosts()
    spool = Spool(world)
    daemon = harness.Daemon(world, there, "--spool", spool)
    environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace"), "RFORK_KEY": str(daemon.key),
                   "RFORK_SPOOL": str(spool)}
    for case, words in (("status", {}), ("pipes", {})):
        said = world.run([world.build / "targets/rforks_c", world.folder, case, daemon.address], host=here,
                         env=environment)
        said.expect(0, out="ok\n")
    spool.empty()
    caller = [world.build / "targets/caller", daemon.address]
    said = world.run(caller, host=here, env={**environment, "RFORK_SPOOL": "/nowhere"})
    expect("failed errno=22 " in said.out and "/nowhere" in said.out, f"{said}")
    target = world.target("steady", host=here)
    image = world.folder / "image"
    world.run([world.program("rfork-trace"), target.real_pid, "-o", image], host=here, env=environment).expect(0)
    expect(image.exists(), "no image")
    unharmed(world, target)


def peak_kib(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def big(world):
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool)
    process = filled(world, 96)
    relay = Proxy(daemon.address)
    said = world.trace(process.real_pid, "--spool", spool, relay.address, "--json", key=daemon.key).expect(0)
    expect(said.json()["image_bytes"] > 96 << 20, f"{said}")
    expect(0 < sum(relay.passed.values()) < 300_000, f"{relay.passed} bytes went over the connection")
    relay.close()
    spool.empty()
    most = max([peak_kib(daemon.pid)] + [peak_kib(pid) for pid in harness.children_of(daemon.pid)
                                         if "rforkd" in pathlib.Path(f"/proc/{pid}/comm").read_text()])
    expect(most < 48 << 10, f"{most} KiB of memory")
    child = daemon.child_id()
    unharmed(world, process)
    daemon.finished(child).expect(0, out="ok\n")


def slow(world):
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool, key=None)
    process = filled(world, 64)
    relay = Meddler(daemon.address, lambda _kind, _body: None)
    trace = world.start_trace(process.real_pid, "--spool", spool, relay.address)
    wait_until(lambda: spool.size() > 0, "an image comes")
    trace.signal(signal.SIGSTOP)
    time.sleep(5.5)     # a sign of life is due every five seconds
    trace.signal(signal.SIGCONT)
    trace.wait().expect(0)
    for way in ("up", "down"):
        expect(WAITING in relay.kinds[way], f"no sign of life {way}: {relay.kinds}")
    child = daemon.child_id()
    unharmed(world, process)
    daemon.finished(child).expect(0, out="ok\n")


def users(world):
    """rfork-trace and rforkd are root's, the process is nobody's."""
    if not world.root:
        raise harness.Skip("only root takes processes of others")
    world.folder.chmod(0o755)
    spool, everybodys = Spool(world), Spool(world, "everybodys")
    spool.path.chmod(0o700)
    everybodys.path.chmod(0o1777)
    private, public = (harness.Daemon(world, None, "--spool", place, "--allow-user", "nobody")
                       for place in (spool, everybodys))
    process = world.start(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "/usr/bin/python3", "-u",
                           "-c", FILLED, "2", world.folder / "go"], cwd="/")
    expect(process.line() == "ready", "the program isn't ready")
    children = []
    for daemon, place in ((private, spool), (public, everybodys)):
        world.trace(process.pid, "--spool", place, daemon.address, key=daemon.key).expect(0)
        children.append((daemon, daemon.child_id()))
        expect(place.names() == [], f"left: {place.names()}")
    # A file that isn't the process's user's is nobody's business, whatever its name.
    daemon = harness.Daemon(world, None, "--spool", everybodys, "--allow-user", "nobody", key=None)
    mine = []

    def take(kind, _body):
        if kind == OFFER:
            os.chown(everybodys.file(), 0, 0)
            mine.append(everybodys.file())
    relay = Meddler(daemon.address, take)
    world.trace(process.pid, "--spool", everybodys, relay.address).refused(REFUSED, "nobody", "Permission denied")
    relay.hang_up()

    def give(kind, _body):
        if kind == OFFER:
            os.chown(everybodys.file(), harness.ORDINARY, harness.ORDINARY)
            os.chmod(everybodys.file(), 0o644)
    relay = Meddler(daemon.address, give)
    world.trace(process.pid, "--spool", everybodys, relay.address).refused(REFUSED, f"uid {harness.ORDINARY}")
    relay.hang_up()
    expect(mine and everybodys.names() == [], f"left: {everybodys.names()}")
    world.go()
    process.wait().expect(0, out="ok\n")
    for daemon, child in children:
        daemon.finished(child).expect(0, out="ok\n")


CASES = {"copy": copy, "move": move, "rfork": rfork, "big": big, "slow": slow, "users": users}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

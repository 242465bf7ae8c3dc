#!/usr/bin/python3
"""Images through a directory that both hosts see: spool.py CASE root|user

copy, move    two hosts; the spool is empty afterwards, nobody keeps the file open, a ghost works
rfork         rfork() with RFORK_SPOOL; -o has nothing to do with it
big           few bytes on the connection, no more memory than without
full, limit   a disk that fills, a file that may not grow: the original goes on, and no file is left
usage         directories that are none, -o and --spool
destination   an rforkd without a spool, with another, with one that it may not read
altered       a file that was cut, lengthened, altered or replaced after it was written
hostile       names that are no move's, links, fifos: nothing but a spool's file is read or removed
killed        of rfork-trace, rforkd and its worker in the middle: no file is left
slow          writing takes long: both ends hear that the other is there
crashed       what is left when all of them were killed goes with a later move, and nothing else does
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
from harness import INTERNAL, REFUSED, USAGE, expect, wait_until
from proxy import Proxy

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
                end.close()


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


def full(world):
    if not world.root:
        raise harness.Skip("only root mounts a disk that is small")
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool)
    process = filled(world, 8)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(spool)], check=True)
    try:
        for options in ([], ["--move"], ["--move", "--no-ghost"]):
            said = world.trace(process.real_pid, "--spool", spool, *options, daemon.address, key=daemon.key)
            said.refused(INTERNAL, str(spool), "No space left on device", "make room")
            spool.empty()
        wait_until(lambda: not daemon.living(), "no child is left")
        world.trace(process.real_pid, daemon.address, key=daemon.key).expect(0)
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)
    unharmed(world, process)


def limit(world):
    """RLIMIT_FSIZE: EFBIG, and SIGXFSZ must end nobody."""
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool)
    process = filled(world, 8)
    for options in ([], ["--move"]):
        said = world.run(["prlimit", f"--fsize={2 << 20}", world.program("rfork-trace"), "--key", daemon.key, "--spool",
                          spool, *options, process.real_pid, daemon.address])
        said.refused(INTERNAL, str(spool), "File too large", "make room")
        spool.empty()
    unharmed(world, process)


def usage(world):
    daemon = harness.Daemon(world, None, "--spool", world.folder)
    target = world.target("steady")
    missing, file = world.folder / "missing", world.folder / "file"
    file.write_text("")
    places = [(missing, "No such file"), (file, "Not a directory")]
    if not world.root:
        closed = Spool(world, "closed")
        closed.path.chmod(0o555)
        places.append((closed, "Permission denied"))
    for place, text in places:
        said = world.trace(target.real_pid, "--spool", place, daemon.address, key=daemon.key)
        said.refused(USAGE, str(place), text, "name a directory")
    for place, text in places[:2]:
        said = world.run([world.program("rforkd"), "--listen", "127.0.0.1:0", "--spool", place])
        said.refused(USAGE, str(place), text)
    said = world.trace(target.real_pid, "--spool", world.folder, "-o", world.folder / "image")
    said.refused(USAGE, "--spool", "leave it out")
    expect(not (world.folder / "image").exists(), "an image was written")
    unharmed(world, target)


def destination(world):
    spool, other = Spool(world), Spool(world, "other")
    without, elsewhere = harness.Daemon(world, None), harness.Daemon(world, None, "--spool", other)
    target = world.target("steady")
    for daemon, texts in ((without, ("no spool", "start it with --spool")), (elsewhere, (str(other), "as each sees it"))):
        for options in ([], ["--move"]):
            said = world.trace(target.real_pid, "--spool", spool, *options, daemon.address, key=daemon.key)
            said.refused(REFUSED, *texts)
            spool.empty()
        expect(daemon.children() == [], "a child is left")
    # The spool isn't the only way of a daemon that has one.
    world.trace(target.real_pid, elsewhere.address, key=elsewhere.key).expect(0)
    unharmed(world, target)


def send_meddled(world, daemon, spool, process, meddle, *options):
    relay = Meddler(daemon.address, meddle)
    said = world.trace(process.real_pid, "--spool", spool, *options, relay.address)
    relay.hang_up()
    return said


def altered(world):
    """Between END and the daemon: what it opens isn't what was written."""
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool, key=None)
    process = filled(world, 4)

    def edit(change):
        def meddle(kind, _body):
            if kind == END:
                change(spool.file())
        return meddle

    def flip(at):
        def change(file):
            with open(file, "r+b") as image:
                image.seek(at % file.stat().st_size)
                byte = image.read(1)
                image.seek(-1, os.SEEK_CUR)
                image.write(bytes([byte[0] ^ 1]))
        return change

    def replace(file):
        data = file.read_bytes()
        file.rename(spool.path / "kept")
        file.write_bytes(data)
        if world.user:
            os.chown(file, harness.ORDINARY, harness.ORDINARY)

    def lengthen(file):
        with open(file, "ab") as image:
            image.write(b"more")

    changes = [(lambda file: os.truncate(file, 4096), ("4096 bytes",)), (lambda file: os.truncate(file, 0), ("0 bytes",)),
               (lengthen, ("bytes here",)), (replace, ("another file",)), (os.unlink, ("directory",)),
               (flip(16), ()), (flip(5000), ()), (flip(2 << 20), ("altered",)), (flip(-20), ())]
    for number, (change, texts) in enumerate(changes):
        for options in ([], ["--move", "--no-ghost"]):
            said = send_meddled(world, daemon, spool, process, edit(change), *options)
            said.refused(REFUSED, *texts)
            (spool.path / "kept").unlink(missing_ok=True)
            spool.empty(f"change {number}: {said}")
            expect(process.running(), f"the original ended: {said}")
    wait_until(lambda: not daemon.living(), "no child is left")
    unharmed(world, process)


def hostile(world):
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool, key=None)
    target = world.target("steady")
    precious = world.folder / "precious"
    precious.write_text("precious")
    (spool.path / "a").mkdir()
    inside = spool.path / "a" / ("b" * 30)
    inside.write_text("precious")

    def rename(name):
        def meddle(kind, body):
            if kind == OFFER:
                at = body.index(b"move_id") + len(b"move_id") + 2    # behind the text's own length
                return body[:at] + name + body[at + 32:]
        return meddle

    for name in (b"../precious", b"/", b"a/" + b"b" * 30, b"../" + b"x" * 29, b"A" * 32, bytes(32), b"\xff" * 32):
        said = send_meddled(world, daemon, spool, target, rename(name.ljust(32, b"/")))
        said.refused(REFUSED, "OFFER is malformed")
    said = send_meddled(world, daemon, spool, target, rename(b"0" * 32))
    said.refused(REFUSED, "isn't the directory")

    def swap(kind_of_frame, make):
        def meddle(kind, _body):
            if kind == kind_of_frame:
                file = spool.file()
                file.unlink()
                make(file)
                if world.user:
                    os.chown(file, harness.ORDINARY, harness.ORDINARY, follow_symlinks=False)
        return meddle

    def another(file):
        os.link(precious, file)

    for when in (OFFER, END):
        for make in (lambda file: file.symlink_to(precious), os.mkfifo, os.mkdir, another):
            said = send_meddled(world, daemon, spool, target, swap(when, make))
            said.refused(REFUSED, "; ")
            left = [name for name in spool.names() if NAME.fullmatch(name)]
            for name in left:
                (spool.path / name).rmdir()     # of all these only a directory isn't the client's to remove
            expect(precious.read_text() == "precious" and inside.read_text() == "precious", "it was read or removed")
    expect(spool.names() == ["a"], f"{spool.names()}")
    unharmed(world, target)


def worker_of(daemon):
    return wait_until(lambda: harness.children_of(daemon.pid), "a worker")[0]


def killed(world):
    spool = Spool(world)
    process = filled(world, 64)
    for options in ([], ["--move"]):
        for victim in ("client", "client-term", "worker", "daemon"):
            daemon = harness.Daemon(world, None, "--spool", spool)
            # When the client is killed the worker removes the file, and else the client.
            trace = world.start_trace(process.real_pid, "--spool", spool, *options, daemon.address, key=daemon.key)
            wait_until(lambda: spool.size() > 0 or not trace.running(), "an image comes")
            worker = worker_of(daemon) if trace.running() else None
            if victim == "client":
                trace.kill()
            elif victim == "client-term":
                trace.signal(signal.SIGTERM)
            elif victim == "worker":
                os.kill(worker, signal.SIGKILL)
            else:
                for pid in harness.children_of(daemon.pid) + [daemon.pid]:
                    os.kill(pid, signal.SIGKILL)
            said = trace.wait()
            expect(said.code in (-signal.SIGKILL, harness.INTERRUPTED, REFUSED, harness.LOST), f"{victim}: {said}")
            spool.empty(f"{victim} {options} {said}")
            wait_until(lambda: ": T " not in harness.state_of(process.pid), f"the original goes on after {victim}")
            if daemon.process.running():
                wait_until(lambda: not daemon.living(), "no child is left")
                daemon.process.kill()
    unharmed(world, process)


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


def crashed(world):
    spool = Spool(world)
    daemon = harness.Daemon(world, None, "--spool", spool)
    target = world.target("steady")
    day = 24 * 3600
    others = {"rfork-" + "0" * 32 + ".spool": 0, "rfork-" + "1" * 32 + ".spool": day - 600, "precious": 2 * day,
              "rfork-" + "2" * 31 + ".spool": 2 * day, "rfork-" + "3" * 32 + ".spool~": 2 * day,
              "rfork-" + "A" * 32 + ".spool": 2 * day}
    old = ["rfork-" + "4" * 32 + ".spool", "rfork-" + "5" * 32 + ".spool"]
    for name, age in [*others.items(), *[(name, 2 * day) for name in old]]:
        file = spool.path / name
        file.write_text("an image")
        os.utime(file, (time.time() - age,) * 2)
    kept = spool.path / ("rfork-" + "6" * 32 + ".spool")
    kept.symlink_to("precious")
    os.utime(kept, (1, 1), follow_symlinks=False)
    world.trace(target.real_pid, "--spool", spool, daemon.address, key=daemon.key).expect(0)
    expect(spool.names() == sorted([*others, kept.name]), f"{spool.names()}")
    unharmed(world, target)


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


CASES = {"copy": copy, "move": move, "rfork": rfork, "big": big, "full": full, "limit": limit, "usage": usage,
         "destination": destination, "altered": altered, "hostile": hostile, "killed": killed, "slow": slow, "crashed": crashed,
         "users": users}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

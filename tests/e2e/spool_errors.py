#!/usr/bin/python3
"""Spools that can't be used, and what goes wrong in one: spool_errors.py CASE root|user

full, limit   a disk that fills, a file that may not grow: the original goes on, and no file is left
usage         directories that are none, -o and --spool
destination   an rforkd without a spool, with another, with one that it may not read
altered       a file that was cut, lengthened, altered or replaced after it was written
hostile       names that are no move's, links, fifos: nothing but a spool's file is read or removed
killed        of rfork-trace, rforkd and its worker in the middle: no file is left
crashed       what is left when all of them were killed goes with a later move, and nothing else does
"""

import os
import signal
import subprocess
import sys
import threading
import time

import harness
from harness import INTERNAL, REFUSED, USAGE, expect, wait_until
from spool import END, NAME, OFFER, Meddler, Spool, filled, unharmed


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

    changes = [(lambda file: os.truncate(file, 4096), ("4096 bytes", "mount the spool so")), (lambda file: os.truncate(file, 0), ("0 bytes",)),
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
            daemon = harness.Daemon(world, None, "--spool", spool, key=None)
            # However fast it is written, nothing comes of it before the kill.
            gone = threading.Event()
            relay = Meddler(daemon.address, lambda kind, _body, gone=gone: (kind == END and gone.wait(20), None)[1])
            # When the client is killed the worker removes the file, and else the client.
            trace = world.start_trace(process.real_pid, "--spool", spool, *options, relay.address)
            wait_until(lambda: spool.size() > 0, "an image comes")
            worker = worker_of(daemon)
            if victim == "client":
                trace.kill()
            elif victim == "client-term":
                trace.signal(signal.SIGTERM)
            elif victim == "worker":
                os.kill(worker, signal.SIGKILL)
            else:
                for pid in harness.children_of(daemon.pid) + [daemon.pid]:
                    os.kill(pid, signal.SIGKILL)
            gone.set()
            said = trace.wait()
            expect(said.code in (-signal.SIGKILL, harness.INTERRUPTED, REFUSED, harness.LOST), f"{victim}: {said}")
            spool.empty(f"{victim} {options} {said}")
            wait_until(lambda: ": T " not in harness.state_of(process.pid), f"the original goes on after {victim}")
            if daemon.process.running():
                wait_until(lambda: not daemon.living(), "no child is left")
                daemon.process.kill()
            relay.hang_up()
    unharmed(world, process)


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


CASES = {"full": full, "limit": limit, "usage": usage, "destination": destination, "altered": altered,
         "hostile": hostile, "killed": killed, "crashed": crashed}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

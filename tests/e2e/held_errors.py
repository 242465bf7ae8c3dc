#!/usr/bin/python3
"""Held TCP connections (held.py) where something goes wrong: held_errors.py CASE root|user

killed:  rfork-run is killed between taking and running; the next one works, and the one behind it is refused.
ended:   the holder is ended: the other end sees it, and rfork-run refuses by name.
refused: copies, other network namespaces and boots, other users.
other:   root moves and restores an ordinary user's process; that user himself gets nothing from root's holder.
trace:   rfork-trace is killed at any moment.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import harness
from harness import CANNOT_CARRY, REFUSED, USAGE, expect
from held import Peer, TALK, gone, move, run


def killed(world):
    peer = Peer(world, TALK)
    image = world.folder / "image.rfork"
    holder = move(world, peer.pid, image)
    peer.say("meanwhile")
    data = image.read_bytes()
    for turn in range(3):
        # It has all but the end of the image: the connection is taken, and nothing runs yet.
        before = harness.processes()
        half_run = subprocess.Popen(world.drop + [world.program("rfork-run"), "-"], stdin=subprocess.PIPE,
                                    stderr=subprocess.DEVNULL, cwd=world.folder)
        half_run.stdin.write(data[:-64 if turn else -4096])
        half_run.stdin.flush()
        harness.wait_until(lambda: harness.children_of(half_run.pid), "the child is being made")
        if turn == 1:  # nobody else gets it meanwhile
            said = world.run([world.program("rfork-run"), image])
            said.refused(REFUSED, f"descriptor {peer.fd} is a TCP connection to 127.0.0.1:",
                         f"another restore is taking it on from process {holder}")
        half_run.kill()
        half_run.wait()
        harness.nothing_left(before, "the restore that was killed")
        expect(not gone(holder), "the holder has it still")
    run(world, image)
    peer.hears("heard meanwhile")
    again = [world.program("rfork-run"), image]
    refused = world.run(again)
    refused.refused(REFUSED, f"descriptor {peer.fd} is a TCP connection to 127.0.0.1:", "it has been taken on",
                    str(holder), f"--drop-fd {peer.fd}")
    without = world.run([again[0], "--drop-fd", peer.fd, image])
    expect("Bad file descriptor" in without.err, f"the descriptor is closed: {without}")
    peer.say("still")
    peer.hears("heard still")
    peer.end.close()


def ended(world):
    peer = Peer(world, TALK)
    image = world.folder / "image.rfork"
    holder = move(world, peer.pid, image)
    os.kill(holder, signal.SIGTERM)
    expect(peer.end.recv(1) == b"", "the connection ends with its holder")
    said = world.run([world.program("rfork-run"), image])
    said.refused(REFUSED, f"descriptor {peer.fd} is a TCP connection to 127.0.0.1:", f"process {holder} was ended",
                 f"--drop-fd {peer.fd}")


def refused(world):
    peer = Peer(world, TALK)
    image = world.folder / "image.rfork"
    words = f"descriptor {peer.fd} is a socket (TCP"
    world.trace(peer.pid, "-o", image).refused(CANNOT_CARRY, words, f"--drop-fd {peer.fd}")
    world.trace("--keep-tcp", peer.pid, "-o", image).refused(USAGE, "--keep-tcp is for a move", "--move")
    world.trace("--move", peer.pid, "-o", image).refused(CANNOT_CARRY, words, "--keep-tcp keeps it on this host")
    world.trace("--move", "--keep-tcp", peer.pid, "-o", world.folder).refused(USAGE, "is a directory")
    expect(not image.exists(), "there is no image")
    peer.say("one")
    peer.hears("heard one")
    holder = move(world, peer.pid, image)
    if os.geteuid() == 0:
        here = world.program("rfork-run")
        there = world.start(["true"])
        said = subprocess.run(["unshare", "--net", *world.drop, here, image], capture_output=True, text=True, check=False)
        result = harness.Result([here], said.returncode, said.stdout, said.stderr)
        result.refused(REFUSED, f"process {holder} holds it in another network namespace of this host")
        there.wait()
    altered = world.folder / "altered.rfork"
    subprocess.run([harness.BUILD / "tests/alter_image", image, altered, "boot",
                    "00000000-0000-0000-0000-000000000000"], check=True)
    if world.drop:
        os.chown(altered, harness.ORDINARY, harness.ORDINARY)
    said = world.run([world.program("rfork-run"), altered])
    said.refused(REFUSED, f"descriptor {peer.fd} is a TCP connection to 127.0.0.1:", "until that is restarted")
    stranger(world, image)
    expect(not gone(holder), "the holder has it still")
    run(world, image)
    peer.say("two")
    peer.hears("heard two")
    peer.end.close()


ASK = """
import socket, sys
one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
one.connect("\\0" + sys.argv[1])
message, passed, _, _ = socket.recv_fds(one, 4096, 10)
print(int.from_bytes(message[4:8], "little"), int.from_bytes(message[8:12], "little"), len(passed))
"""


def stranger(world, image):
    """Another user gets nothing but the word that says so."""
    if os.geteuid() != 0:
        return
    dumped = subprocess.run([harness.BUILD / "bin/rfork-dump", "--json", image], capture_output=True, check=True)
    name = json.loads(dumped.stdout)["holder"]["name"]
    said = subprocess.run(["setpriv", "--reuid=54399", "--regid=54399", "--clear-groups", "/usr/bin/python3", "-c", ASK,
                           name], capture_output=True, text=True, check=True).stdout
    expect(said == "7 3 0\n", f"it is refused, for it isn't allowed: {said}")


def other(world):
    if not world.root:
        raise harness.Skip("only root moves another user's process")
    user = ["setpriv", f"--reuid={harness.ORDINARY}", f"--regid={harness.ORDINARY}", "--clear-groups"]
    world.folder.chmod(0o777)
    world.drop = user
    peer = Peer(world, TALK)
    world.drop = []
    image = world.folder / "image.rfork"
    holder = move(world, peer.pid, image)
    peer.say("meanwhile")
    copied = world.folder / "copied.rfork"
    copied.write_bytes(image.read_bytes())
    os.chown(copied, harness.ORDINARY, harness.ORDINARY)
    world.drop = user
    said = world.run([world.program("rfork-run"), copied])
    said.refused(REFUSED, f"descriptor {peer.fd} is a TCP connection to 127.0.0.1:",
                 f"process {holder} gives it to its own user and root only")
    world.drop = []
    pid = run(world, image)
    peer.hears("heard meanwhile")
    expect(os.stat(f"/proc/{pid}").st_uid == harness.ORDINARY, "the child is the user's")
    peer.end.close()


def trace(world):
    """Either the original talks on and nobody holds anything, or it is in the file and can go on."""
    seed = int(os.environ.get("RFORK_TEST_SEED", random.randrange(1 << 30)))
    print(f"RFORK_TEST_SEED={seed}")
    chance = random.Random(seed)
    peer = Peer(world, TALK)
    pid, moved = peer.pid, 0
    longest = 0.05
    for turn in range(40):
        image = world.folder / f"image-{turn}.rfork"
        before = harness.processes()
        started = time.monotonic()
        tracing = world.start_trace(pid, "--move", "--keep-tcp", "-o", image)
        if turn % 8 == 0:
            tracing.wait().expect(0)
            longest = (time.monotonic() - started) * 1.1
        else:
            time.sleep(chance.random() * longest)
            tracing.kill()
        if turn == 0:
            expect(peer.process.wait().code == -signal.SIGKILL, "the original has ended")
        harness.wait_until(lambda: not stopped(pid), "the original goes on or has ended")
        peer.say(f"turn {turn}")
        time.sleep(0.02)
        if gone(pid):
            moved += 1
            pid = run(world, image)
        else:
            harness.nothing_left(before, "a move that was cut off")
        peer.hears(f"heard turn {turn}")
        peer.say("and")
        peer.hears("heard and")
        image.unlink(missing_ok=True)
    expect(moved >= 5, f"{moved} of 40 were moved")
    peer.end.close()


def stopped(pid):
    try:
        return open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


CASES = {"killed": killed, "ended": ended, "refused": refused, "other": other, "trace": trace}

if __name__ == "__main__":
    os.environ.pop("RFORK_KEY", None)
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

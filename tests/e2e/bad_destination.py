#!/usr/bin/python3
"""Destinations that can't take a process: the right exit code, one clear line, and the original goes on:
bad_destination.py CASE. All on loopback.
"""

import os
import socket
import sys
import time

import harness
from harness import LOST, REFUSED, USAGE, expect
from proxy import Listener


def refuse(world, target, to, codes, *texts, key=None, move=True):
    """By copy and by move alike; gives the last answer."""
    for options in ([], ["--move"]) if move else ([],):
        said = world.trace(target.real_pid, to, *options, key=key)
        expect(said.code in codes, f"one of {codes} was expected: {said}")
        said.refused(said.code, *texts)
    return said


def unharmed(world, target):
    expect(target.running(), "the original ended")
    world.go()
    target.wait().expect(0, out="ok\n")


def nobody(world):
    target = world.target("steady")
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    refuse(world, target, f"127.0.0.1:{port}", [LOST], f"127.0.0.1:{port}")
    refuse(world, target, "no-such-host.invalid:7411", [LOST], "no-such-host.invalid")
    for word in ("127.0.0.1:99999", "127.0.0.1:", ":7411", "127.0.0.1:abc"):
        said = world.trace(target.real_pid, word)
        expect(said.code in (USAGE, LOST) and said.err.strip(), f"{said}")
    unharmed(world, target)


def no_rforkd(world):
    """Something else listens: it says something else, says nothing, closes at once, or sends without end."""
    target = world.target("steady")

    def http(connection):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def banner(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        connection.recv(1000)

    def silence(connection):
        while connection.recv(1000):
            pass

    def noise(connection):
        while True:
            connection.sendall(os.urandom(65536))

    def zeros(connection):
        while True:
            connection.sendall(bytes(65536))

    for answer in (http, banner, noise, zeros, silence, lambda connection: None):
        listener = Listener(answer)
        for key in (None, world.key()):
            refuse(world, target, listener.address, [LOST, REFUSED], listener.address, key=key, move=False)
    refuse(world, target, Listener(http).address, [LOST, REFUSED], "rforkd")
    unharmed(world, target)


def older(world):
    """rforkd of another version: the greeting tells, whatever is asked."""
    target = world.target("steady")

    def greets_with(version):
        def greet(connection):
            connection.sendall(b"\x89RFORK\r\n" + version.to_bytes(2, "little") + bytes(6))
            connection.recv(1000)
        return greet

    for version, words in ((1, "runs an older rfork: it speaks protocol 1, this is 2"),
                           (3, "runs a later rfork: it speaks protocol 3, this is 2")):
        address = Listener(greets_with(version)).address
        refuse(world, target, address, [REFUSED], f"{address} {words}; install the same version")
        said = world.trace("--check", "--json", target.real_pid, address).expect(REFUSED).json()
        expect(said["reasons"][0]["what"] == f"{address} {words}", f"{said}")
    unharmed(world, target)


def other_key(world):
    target = world.target("steady")
    daemon = harness.Daemon(world, None)
    other = world.folder / "other-key"
    world.run([world.program("rforkd"), "--make-key", other]).expect(0)
    refuse(world, target, daemon.address, [REFUSED], "key", key=other)
    refuse(world, target, daemon.address, [REFUSED], "key")  # none at all
    open_daemon = harness.Daemon(world, None, key=None)
    refuse(world, target, open_daemon.address, [REFUSED], "key", key=other)
    for bad in ("missing", "empty", "short"):
        path = world.folder / bad
        if bad != "missing":
            path.write_text("" if bad == "empty" else "abc\n")
            path.chmod(0o600)
        said = world.trace(target.real_pid, daemon.address, key=path)
        expect(said.code in range(1, 6), f"{said}")
        said.refused(said.code, str(path))
    world.key().chmod(0o644)
    said = world.trace(target.real_pid, daemon.address, key=world.key())
    world.key().chmod(0o600)
    expect(said.code == 0 or "key" in said.err, f"a key that all can read: {said}")
    expect(daemon.children() == [] or said.code == 0, "a child runs")
    if said.code == 0:
        daemon.ctl("kill", daemon.child_id())
    unharmed(world, target)


def users(world):
    """A root daemon takes root's processes and other users' only as it was told."""
    if not world.root:
        raise harness.Skip("needs root")
    target = world.target("steady")
    strict = harness.Daemon(world, None, "--allow-user", "nobody")
    refuse(world, target, strict.address, [REFUSED], "root", "--allow-root", key=strict.key)
    other = world.folder / "nobody"
    other.mkdir()
    os.chown(other, 65534, 65534)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    world.folder.chmod(0o711)
    process = world.start([*as_nobody, world.build / "targets/steady", other], cwd="/")
    expect(process.line().startswith("ready"), f"nobody's target: {process.wait() if not process.running() else ''}")
    allowing_root = harness.Daemon(world, None, "--allow-root")
    process.real_pid = process.pid
    refuse(world, process, allowing_root.address, [REFUSED], "nobody", "--allow-user", key=strict.key)
    world.trace(process.pid, "--move", "--no-ghost", strict.address, key=strict.key).expect(0)
    child = strict.child_id()
    shown = [entry for entry in strict.children() if str(entry["id"]) == child][0]
    expect(shown["user"] == "nobody", f"user of the child: {shown}")
    uid = [line for line in open(f"/proc/{shown['pid']}/status", encoding="utf-8") if line.startswith("Uid")]
    expect(uid[0].split()[1:] == ["65534"] * 4, f"ids of the child: {uid}")
    world.go(other)
    strict.finished(child).expect(0, out="ok\n")
    unharmed(world, target)


def loopback_only(world):
    """Without a key a daemon listens on loopback only, and says so."""
    said = world.run([world.program("rforkd"), "--listen", "0.0.0.0:0"])
    expect(said.code != 0, f"{said}")
    said.refused(said.code, "key")


def stopping(world):
    """A daemon that ends: what comes later is refused, and its children go on."""
    target = world.target("steady")
    daemon = harness.Daemon(world, None)
    world.trace(target.real_pid, daemon.address, key=daemon.key).expect(0)
    pid = daemon.children()[0]["pid"]
    daemon.process.signal(harness.signal.SIGTERM)
    daemon.process.wait()
    refuse(world, target, daemon.address, [LOST], daemon.address, key=daemon.key)
    time.sleep(0.2)
    state = harness.state_of(pid)
    expect(state, "the daemon's end took its child along")
    unharmed(world, target)
    harness.wait_until(lambda: not os.path.exists(f"/proc/{pid}/stat") or
                       " Z " in open(f"/proc/{pid}/stat", encoding="utf-8").read(), "the child ends too")


CASES = {"nobody": nobody, "no-rforkd": no_rforkd, "older": older, "other-key": other_key, "users": users,
         "loopback-only": loopback_only, "stopping": stopping}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=len(sys.argv) > 2 and sys.argv[2] == "user")

#!/usr/bin/python3
"""Sockets with names, which one process at a time can have: sockets.py CASE root|user [PROGRAM]

file:   moved through an image, three times in a row; then the program of tests/targets verifies itself.
net:    moved to another host.
local:  moved to a daemon on the same host, which takes the very sockets.
copy:   copied to another host: both have the name, each on its host.
shared: with SO_REUSEPORT a copy has the name too, and says so.
busy:   a copy where the original still has the name is refused by name, and goes on without if told to.
keep:   an established TCP connection is kept by a move within one host.
absent: an address that the destination doesn't have is refused by name; any other is accepted if told to.
"""

import os
import signal
import socket
import subprocess
import sys

import harness
from harness import CANNOT_CARRY, REFUSED, USAGE, expect

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as one:
    print(one.recv(100).decode())
"""
SERVER = """
import socket, sys
one = socket.create_server((sys.argv[1], 0), backlog=5, reuse_port=sys.argv[3:] == ["reuse_port=True"])
print("ready", one.getsockname()[1], one.fileno(), flush=True)
while True:
    accepted, _ = one.accept()
    accepted.sendall(sys.argv[2].encode())
    accepted.close()
"""


def file(world, program):
    target = world.target(program)
    pid, ended, run = target.real_pid, target, None
    for number in range(3):
        image = world.folder / f"image-{number}.rfork"
        world.trace("--check", "--move", pid, "-o", image).expect(0)  # nothing is read away
        world.trace("--move", pid, "-o", image).expect(0)
        ended.wait()
        pid_file = world.folder / f"pid-{number}"
        run = ended = world.start([world.program("rfork-run"), "--pidfile", pid_file, image])
        harness.wait_until(lambda: not run.running() or (pid_file.exists() and pid_file.read_text().strip()),
                           "the child runs")
        expect(run.running(), f"no child runs: {run.wait() if not run.running() else ''}")
        pid = int(pid_file.read_text())
        harness.wait_until(lambda: not run.running() or named(pid) == program[:15], "the child is in place")
    world.go()
    run.wait().expect(0, out="ok\n")
    lent = lent_names()  # of others too, which go on meanwhile
    harness.wait_until(lambda: not lent & lent_names(), "no name that was lent is left behind", 10)


def lent_names():
    return {entry.name for entry in os.scandir("/tmp") if entry.name.startswith("rfork-names-")}


def named(pid):
    try:
        return open(f"/proc/{pid}/comm", encoding="utf-8").read().strip()
    except OSError:
        return ""


def net(world, program):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    folder = world.folder / "apart"
    folder.mkdir()
    folder.chmod(0o777)
    # The other host has files of its own there: no path of a socket is in use.
    there.call("mount", "-t", "tmpfs", "-o", "mode=777", "none", str(folder))
    target = world.target(program, host=here, folder=folder)
    ghost = [] if world.root else ["--no-ghost"]
    world.trace("--move", *ghost, target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    child = daemon.child_id()
    there.call("touch", str(folder / "go"))
    if not ghost:
        target.wait().expect(0, out="ok\n")
    else:
        daemon.finished(child).expect(0, out="ok\n")


def local(world, program):
    daemon = harness.Daemon(world, None)
    target = world.target(program)
    world.trace("--move", "--no-ghost", target.real_pid, daemon.address, key=daemon.key).expect(0)
    world.go()
    daemon.finished(daemon.child_id()).expect(0, out="ok\n")


def server(world, address, text, *options, host=None):
    process = world.start(["/usr/bin/python3", "-c", SERVER, address, text, *options], host=host)
    word, port, fd = process.line().split()
    expect(word == "ready", "the server is ready")
    process.port, process.fd = int(port), fd
    return process


def asked(world, address, port, host=None):
    return world.run(["/usr/bin/python3", "-c", CLIENT, address, port], host=host).expect(0).out.strip()


def copy(world):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    process = server(world, "0.0.0.0", "served", host=here)
    for _ in range(2):
        expect(asked(world, here.address, process.port, here) == "served", "the original serves")
    world.trace(process.pid, daemon.address, host=here, key=daemon.key).expect(0)
    expect(asked(world, there.address, process.port, here) == "served", "the copy serves")
    expect(asked(world, here.address, process.port, here) == "served", "the original serves on")
    # A second one there finds it taken, and nothing was stopped for that.
    said = world.trace(process.pid, daemon.address, host=here, key=daemon.key)
    said.refused(REFUSED, f"descriptor {process.fd} can't have the address 0.0.0.0:{process.port} there",
                 "in use", f"--drop-fd {process.fd}")
    world.trace("--drop-fd", process.fd, process.pid, daemon.address, host=here, key=daemon.key).expect(0)


def busy(world):
    process = server(world, "127.0.0.1", "served")
    image = world.folder / "image.rfork"
    world.trace(process.pid, "-o", image).expect(0)
    words = [f"descriptor {process.fd} can't have the address 127.0.0.1:{process.port} here", "in use",
             f"--drop-fd {process.fd}"]
    world.run([world.program("rfork-run"), image]).refused(REFUSED, *words)
    daemon = harness.Daemon(world, None)
    said = world.trace(process.pid, daemon.address, key=daemon.key)
    said.refused(REFUSED, words[0].replace("here", "there"), *words[1:])
    expect(asked(world, "127.0.0.1", process.port) == "served", "the original serves on")
    # Without it the copy goes on, until it asks for the descriptor.
    without = world.run([world.program("rfork-run"), "--drop-fd", process.fd, image])
    expect("Bad file descriptor" in without.err, f"the descriptor is closed: {without}")
    process.kill()
    copied = world.start([world.program("rfork-run"), image])
    harness.wait_until(lambda: serves(process.port), "the copy has the port that is free now")
    expect(asked(world, "127.0.0.1", process.port) == "served", "the copy serves")
    copied.popen.terminate()  # which it passes on
    copied.wait()


def closing(world):
    """A server without SO_REUSEADDR whose closed connections have its port still: it isn't anybody's."""
    code = ("import os, socket\nserver = socket.socket()\nserver.bind(('127.0.0.1', 0))\nserver.listen()\n"
            "print(server.getsockname()[1], flush=True)\n"
            "while True:\n    end = server.accept()[0]\n    end.sendall(b'served')\n    end.close()\n")
    process = world.start(["/usr/bin/python3", "-c", code])
    port = int(process.line())
    expect(asked(world, "127.0.0.1", port) == "served", "it serves")
    image = world.folder / "image.rfork"
    world.trace(process.pid, "--move", "-o", image).expect(0)
    world.run([world.program("rfork-run"), image]).refused(REFUSED, f"127.0.0.1:{port}", "TIME_WAIT", "try again then")


def shared(world):
    """An address that may be shared is, and it is said."""
    process = server(world, "127.0.0.1", "served", "reuse_port=True")
    image = world.folder / "image.rfork"
    world.trace(process.pid, "-o", image).expect(0)
    log = world.folder / "copy.log"
    copied = world.start([world.program("rfork-run"), image], log=log)
    harness.wait_until(lambda: "shares the address" in log.read_text(), lambda: f"it is said: {log.read_text()}")
    copied.popen.terminate()
    copied.wait()


def serves(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def absent(world):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    process = server(world, here.address, "served", host=here)
    move = ["--move", "--no-ghost", process.pid, daemon.address]
    said = world.trace(*move, host=here, key=daemon.key)
    said.refused(REFUSED, f"descriptor {process.fd} can't have the address {here.address}:{process.port} there",
                 "no interface has it", "--any-address")
    expect(asked(world, here.address, process.port, here) == "served", "the original serves on")
    said = world.trace("--any-address", *move, host=here, key=daemon.key).expect(0)
    expect("another address" in said.err, f"it is said: {said}")
    expect(asked(world, there.address, process.port, here) == "served", "the child serves")


def pending(world):
    """Connections that nobody has accepted break by a move: refused by name unless accepted."""
    target = world.start(["/usr/bin/python3", "-c", "import socket, time\n"
                          "one = socket.create_server(('127.0.0.1', 0))\n"
                          "print(one.getsockname()[1], one.fileno(), flush=True)\ntime.sleep(1000)"])
    port, fd = target.line().split()
    with socket.create_connection(("127.0.0.1", int(port)), 10):
        image = world.folder / "image.rfork"
        said = world.trace("--move", target.pid, "-o", image)
        said.refused(CANNOT_CARRY, f"descriptor {fd} is a socket", "1 connections that nobody has accepted",
                     "--drop-connections")
        world.trace(target.pid, "-o", image).expect(0)  # a copy leaves them to the original
        world.trace("--move", "--drop-connections", target.pid, "-o", image).expect(0)


TALK = """
import socket, sys
one = socket.create_server(("127.0.0.1", 0))
print(one.getsockname()[1], flush=True)
talk, _ = one.accept()
one.close()
print(talk.fileno(), flush=True)
while line := talk.recv(100):
    talk.sendall(b"heard " + line)
"""


def keep(world):
    """An established connection goes along within one host. To another host it can't, over loopback or without rights,
    which is said before anything is done; the others are moved_address.py's."""
    here, there = world.two_hosts()
    target = world.start(["/usr/bin/python3", "-c", TALK], host=here)
    port = int(target.line())
    asks = world.start(["/usr/bin/python3", "-u", "-c",
                        "import socket, sys\nwith socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20) as one:\n"
                        "    for word in ('one', 'two', 'three'):\n"
                        "        one.sendall(word.encode())\n        print(one.recv(100).decode(), flush=True)\n"
                        "        input()\n", str(port)], host=here, stdin=subprocess.PIPE)
    fd = target.line()
    expect(asks.line() == "heard one", "they talk")
    far = harness.Daemon(world, there)
    move = ["--move", "--keep-tcp", "--no-ghost", target.pid]
    said = world.trace(*move, far.address, host=here, key=far.key)
    if world.root:
        said.refused(CANNOT_CARRY, f"descriptor {fd} is TCP at 127.0.0.1:", "own address belongs to each host", "--drop-fd")
    else:
        said.refused(REFUSED, "can't be kept: it takes CAP_NET_ADMIN, which rforkd lacks", "--keep-tcp")
    world.trace("--keep-tcp", target.pid, far.address, host=here).refused(USAGE, "--keep-tcp", "--move")
    near = harness.Daemon(world, here)
    asks.popen.stdin.write("\n")
    asks.popen.stdin.flush()
    expect(asks.line() == "heard two", "they talk on")
    world.trace(*move, near.address, host=here, key=near.key).expect(0)
    expect(target.wait().code == -signal.SIGKILL, "the original has moved")
    asks.popen.stdin.write("\n")
    asks.popen.stdin.flush()
    expect(asks.line() == "heard three", "the child answers")


CASES = {"file": file, "net": net, "local": local, "copy": copy, "busy": busy, "closing": closing, "absent": absent,
         "pending": pending, "shared": shared, "keep": keep}

if __name__ == "__main__":
    os.environ.pop("RFORK_KEY", None)
    if sys.argv[1] in ("file", "local") and os.geteuid() == 0 and "RFORK_TEST_ALONE" not in os.environ:
        # No other test takes a port between the end of the original and the restore.
        os.environ["RFORK_TEST_ALONE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-B",
                              *sys.argv])
    harness.main(CASES[sys.argv[1]], *sys.argv[3:], user=sys.argv[2] == "user")

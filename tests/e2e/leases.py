#!/usr/bin/python3
"""Write leases of files (tests/targets/file_leases.cc), which one process at a time can have: leases.py CASE root|user

move, net: a move through an image and to a host where the file comes along: the child holds it.
held:      on the host of a copy's original: nothing is opened that would break it.
breaking:  somebody waits for it: refused.
not-ours:  the restorer may not set it.
"""

import os
import pathlib
import signal
import sys

import harness
from harness import CANNOT_CARRY, REFUSED, expect

AS_USER = ["setpriv", f"--reuid={harness.ORDINARY}", f"--regid={harness.ORDINARY}", "--clear-groups"]


def move(world):
    target = world.target("file_leases", "write")
    image = world.folder / "image.rfork"
    for number in range(3):
        world.trace("--move", target.real_pid, "-o", image).expect(0)
        pid_file = world.folder / f"pid-{number}"
        target = world.start([world.program("rfork-run"), "--pidfile", pid_file, image])
        harness.wait_until(lambda: not target.running() or pid_file.exists(), "the child runs")
        target.real_pid = int(pid_file.read_text())
    world.go()
    target.wait().expect(0, out="ok\n")


def net(world):
    """The other host has another folder there: the file is made."""
    here, there = world.two_hosts()
    folder = world.folder / "leased"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    there.call("mount", "-t", "tmpfs", "-o", "mode=777", "leased", str(folder))
    daemon = harness.Daemon(world, there)
    target = world.target("file_leases", "write", host=here)
    world.trace("--move", "--no-ghost", target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    child = daemon.child_id()
    world.go()
    daemon.finished(child).expect(0, out="ok\n")


def held(world):
    """The target fails if it was ever asked to give its lease up."""
    target = world.target("file_leases", "write")
    image = world.folder / "image.rfork"
    world.trace("--check", target.real_pid, "-o", image).expect(0, out="leased/write, 8 bytes, a lease")
    world.trace(target.real_pid, "-o", image).expect(0)
    said = world.run([world.program("rfork-run"), image])
    said.refused(REFUSED, f"is under a lease of process {target.real_pid} here", "--drop-fd")
    daemon = harness.Daemon(world, None, key=None)
    for options in ([], ["--move"]):
        said = world.trace(*options, target.real_pid, daemon.address)
        said.refused(REFUSED, "leased/write is under a lease of another process there", "--drop-fd")
    number = next(fd for fd in os.listdir(f"/proc/{target.real_pid}/fd")
                  if os.readlink(f"/proc/{target.real_pid}/fd/{fd}").endswith("leased/write"))
    pid_file = world.folder / "pid"
    copy = world.start([world.program("rfork-run"), "--pidfile", pid_file, "--drop-fd", number, image])
    harness.wait_until(lambda: not copy.running() or pid_file.exists(), "the copy runs")
    world.go()
    expect(copy.wait().code == 1, f"the copy goes on without the file, and misses it: {copy.wait()}")
    target.wait().expect(0, out="ok\n")


def breaking(world):
    target = world.target("file_leases", "write")
    os.kill(target.real_pid, signal.SIGSTOP)
    opener = world.start(["cat", world.folder / "leased/write"])
    locks = pathlib.Path("/proc/locks")
    harness.wait_until(lambda: "BREAKING" in locks.read_text(), "somebody waits for the lease")
    image = world.folder / "image.rfork"
    said = world.trace(target.real_pid, "-o", image)
    said.refused(CANNOT_CARRY, "holds a lease on", "leased/write that is being broken", "--drop-locks")
    world.trace("--drop-locks", target.real_pid, "-o", image).expect(0)
    target.kill()
    opener.wait().expect(0, out="contents")


def not_ours(world):
    if not world.root:
        raise harness.Skip("root's files are wanted")
    target = world.target("file_leases", "read")
    image = world.folder / "image.rfork"
    world.trace("--move", target.real_pid, "-o", image).expect(0)
    world.folder.chmod(0o755)
    for path in (image, world.folder / "leased/read"):
        path.chmod(0o644)
    said = world.run([*AS_USER, world.program("rfork-run"), image])
    said.refused(REFUSED, "the read lease on", "can't be set here: Permission denied", "CAP_LEASE", "--drop-locks")
    world.go()
    said = world.run([*AS_USER, world.program("rfork-run"), "--drop-locks", image])
    expect(said.code == 1 and "the child goes on without it" in said.err, f"{said}")


CASES = {"move": move, "net": net, "held": held, "breaking": breaking, "not-ours": not_ours}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

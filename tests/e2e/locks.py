#!/usr/bin/python3
"""Locks of files (tests/targets/file_locks.cc): locks.py file|net|held root|user

file, net: a move through an image and to another host with the same files: the child holds them.
held:      they are another process's here: a copy goes on without and says so, a moved one is refused.
"""

import signal
import sys

import harness


def file(world):
    target = world.target("file_locks")
    image = world.folder / "image.rfork"
    world.trace("--move", target.real_pid, "-o", image).expect(0)
    moved = world.start([world.program("rfork-run"), image])
    world.go()
    moved.wait().expect(0, out="ok\n")


def net(world):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    target = world.target("file_locks", host=here)
    world.trace("--move", "--no-ghost", target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    child = daemon.child_id()
    world.go()
    daemon.finished(child).expect(0, out="ok\n")


HELD = ("bytes 10 to 19 of", "bytes 100 to the end of", "bytes 1 to 2 of", "/exclusive is held")


def held(world):
    target = world.target("file_locks")
    image = world.folder / "copied.rfork"
    world.trace(target.real_pid, "-o", image).expect(0)
    log = world.folder / "copy.log"
    copy = world.start([world.program("rfork-run"), image], log=log)
    # While the original holds them.
    harness.wait_until(lambda: all(text in log.read_text() for text in ("note: the lock on", *HELD)),
                       lambda: f"the copy says which locks it has not: {log.read_text()}")
    # It ends first: what could be shared it has too.
    copy.popen.terminate()
    harness.expect(copy.wait().code == -signal.SIGTERM, "the copy's end")
    world.go()
    target.wait().expect(0, out="ok\n")

    folder = world.folder / "moved"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    target = world.target("file_locks", folder=folder)
    image = world.folder / "moved.rfork"
    world.trace("--move", target.real_pid, "-o", image).expect(0)
    holder = world.start(["/usr/bin/python3", "-c", "import fcntl, sys, time\n"
                          "file = open(sys.argv[1], 'r+')\n"
                          "fcntl.lockf(file, fcntl.LOCK_EX, 1, 12)\n"
                          "print('ready', flush=True)\ntime.sleep(1000)", folder / "records"])
    harness.expect(holder.line() == "ready", "the holder holds its lock")
    run = [world.program("rfork-run"), image]
    world.run(run).refused(5, "bytes 10 to 19 of", "held by another process", "--drop-locks")
    world.go(folder)
    said = world.run([run[0], "--drop-locks", image])
    harness.expect(said.code == 1 and "bytes 10 to 19 of" in said.err, f"not accepted: {said}")
    holder.kill()
    world.run(run).expect(0, out="ok\n")


if __name__ == "__main__":
    harness.main({"file": file, "net": net, "held": held}[sys.argv[1]], user=sys.argv[2] == "user")

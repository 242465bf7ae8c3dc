#!/usr/bin/python3
"""A program of tests/targets through capture and restore: target.py file|net|move root|user PROGRAM [ARGUMENT...]

file: copied into a file, restored from it on the same host, three times in a row; the original and the copies verify
      themselves.
net:  copied to another host, then moved there; both children verify themselves, the original is gone
      or the moved one's ghost.
move: only moved there, for what a copy shares with the original.
"""

import signal
import sys

import harness
from harness import expect


def would_go(world, target, *arguments, **options):
    """--check agrees that what follows will go."""
    said = world.trace("--check", "--json", target.real_pid, *arguments, **options).expect(0).json()
    expect(said["possible"] and said["reasons"] == [], f"{said}")


def run_again(world, image):
    pid_file = image.with_suffix(".pid")
    copy = world.start([world.program("rfork-run"), "--pidfile", pid_file, image])
    harness.wait_until(lambda: not copy.running() or (pid_file.exists() and pid_file.read_text().strip()),
                       "the copy runs")
    expect(copy.running(), f"no copy runs: {copy}")
    copy.real_pid = int(pid_file.read_text())
    return copy


def through_file(world, program, arguments):
    target = world.target(program, *arguments)
    image = world.folder / "image.rfork"
    would_go(world, target, "-o", image)
    world.trace(target.real_pid, "-o", image).expect(0)
    expect(image.stat().st_mode & 0o777 == 0o600, f"mode of the image: {image.stat().st_mode:o}")
    copies = [run_again(world, image)]
    # What was restored can be captured as the original can; but for a FIFO that all of them have open.
    for number in () if program == "file_fifo" else (2, 3):
        image = world.folder / f"image-{number}.rfork"
        world.trace(copies[-1].real_pid, "-o", image).expect(0)
        copies.append(run_again(world, image))
    world.go()
    for process in (target, *copies):
        process.wait().expect(0, out="ok\n")
    world.run([world.program("rfork-dump"), "--verify", image]).expect(0)


def through_net(world, program, arguments):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    target = world.target(program, *arguments, host=here)
    would_go(world, target, daemon.address, host=here, key=daemon.key)
    world.trace(target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    if not target.running():
        raise harness.Failed(f"the original ended: {target.wait()}")
    copy = daemon.child_id()
    # As root with a ghost, which ends as the child does; as an ordinary user without.
    ghost = [] if world.root else ["--no-ghost"]
    would_go(world, target, "--move", *ghost, daemon.address, host=here, key=daemon.key)
    world.trace("--move", *ghost, target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    moved = daemon.child_id(known=[copy])
    if not ghost:
        world.go()
        target.wait().expect(0, out="ok\n")
        daemon.finished(copy).expect(0, out="ok\n")
        return
    original = target.wait()
    expect(original.code == -signal.SIGKILL, f"the moved original should have been ended: {original}")
    world.go()
    daemon.finished(copy).expect(0, out="ok\n")
    daemon.finished(moved).expect(0, out="ok\n")


def by_a_move(world, program, arguments):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    target = world.target(program, *arguments, host=here)
    world.trace("--move", "--no-ghost", target.real_pid, daemon.address, host=here, key=daemon.key).expect(0)
    moved = daemon.child_id()
    original = target.wait()
    expect(original.code == -signal.SIGKILL, f"the moved original should have been ended: {original}")
    world.go()
    daemon.finished(moved).expect(0, out="ok\n")


if __name__ == "__main__":
    way = {"file": through_file, "net": through_net, "move": by_a_move}[sys.argv[1]]
    harness.main(way, sys.argv[3], sys.argv[4:], user=sys.argv[2] == "user")

#!/usr/bin/python3
"""rforkd under load and trouble: daemon.py CASE"""

import os
import signal
import sys

import harness
from harness import CANNOT_TRACE, LOST, REFUSED, expect, wait_until
from proxy import Proxy


def unharmed(world, target):
    expect(target.running(), "the original ended")
    world.go()
    target.wait().expect(0, out="ok\n")


def workers(daemon):
    def program(pid):
        try:
            return os.readlink(f"/proc/{pid}/exe")
        except OSError:        # it has ended meanwhile
            return None

    own = program(daemon.pid)
    return [pid for pid in harness.children_of(daemon.pid) if program(pid) == own]


def worker_crash(world):
    """A worker that dies takes its restore along and nothing else."""
    target = world.target("steady")
    daemon = harness.Daemon(world, None)
    world.trace(target.real_pid, daemon.address, key=daemon.key).expect(0)
    first = daemon.child_id()
    before = workers(daemon)
    relay = Proxy(daemon.address, up=300_000, freeze=True)
    tracer = world.start_trace(target.real_pid, "--move", "--no-ghost", relay.address, key=daemon.key)
    expect(relay.cut.wait(harness.DEADLINE), "the image is on its way")
    fresh = wait_until(lambda: [pid for pid in workers(daemon) if pid not in before], "a worker")
    os.kill(fresh[0], signal.SIGKILL)
    relay.close()
    said = tracer.wait(100)
    expect(said.code in (LOST, REFUSED), f"{said}")
    said.refused(said.code)
    expect([child["state"] for child in daemon.living()] == ["running"], f"{daemon.children()}")
    world.trace(target.real_pid, daemon.address, key=daemon.key).expect(0)
    second = [str(child["id"]) for child in daemon.living() if str(child["id"]) != first]
    unharmed(world, target)
    for child in (first, *second):
        daemon.finished(child).expect(0, out="ok\n")


def many(world):
    """Several processes at a time, each several times."""
    daemon = harness.Daemon(world, None)
    targets = []
    for number in range(4):
        folder = world.folder / f"target-{number}"
        folder.mkdir()
        if world.drop:
            os.chown(folder, harness.ORDINARY, harness.ORDINARY)
        targets.append(world.target("mem_memfd", folder=folder))
    for _ in range(3):
        tracers = [world.start_trace(target.real_pid, daemon.address, key=daemon.key) for target in targets]
        for tracer in tracers:
            tracer.wait().expect(0)
    expect(len(daemon.living()) == 12, f"{daemon.children()}")
    for number, target in enumerate(targets):
        world.go(world.folder / f"target-{number}")
        target.wait().expect(0, out="ok\n")
    for child in daemon.children():
        daemon.finished(str(child["id"])).expect(0, out="ok\n")
        daemon.ctl("rm", str(child["id"])).expect(0)
    expect(daemon.children() == [], "children that were forgotten are listed")
    wait_until(lambda: not workers(daemon), "no worker is left")


def rivals(world):
    """Several rfork-trace want the same process: each does it or is told that it is traced."""
    daemon = harness.Daemon(world, None)
    target = world.target("steady")
    for _ in range(4):
        tracers = [world.start_trace(target.real_pid, daemon.address, key=daemon.key) for _ in range(3)]
        said = [tracer.wait() for tracer in tracers]
        for one in said:
            expect(one.code in (0, CANNOT_TRACE), f"{one}")
            if one.code:
                one.refused(CANNOT_TRACE, "traced")
        expect(any(one.code == 0 for one in said), f"nobody got it: {said}")
        for child in daemon.living():
            daemon.ctl("kill", str(child["id"]), "KILL").expect(0)
            daemon.finished(str(child["id"]))
    unharmed(world, target)


def refuses_early(world):
    """A thin image whose file is missing or another one is refused before anything runs, naming the file."""
    folder = world.folder / "data"
    folder.mkdir()
    if world.drop:
        os.chown(folder, harness.ORDINARY, harness.ORDINARY)
    target = world.target("mem_private_file", folder=folder)
    image = world.folder / "image"
    world.trace(target.real_pid, "--thin", "--move", "-o", image).expect(0)
    data = folder / "private.data"
    contents = data.read_bytes()
    world.go(folder)
    for change in (lambda: data.unlink(), lambda: data.write_bytes(contents[:-1]),
                   lambda: data.write_bytes(contents[::-1])):
        change()
        said = world.run([world.program("rfork-run"), image])
        expect(said.code in (REFUSED, harness.BAD_IMAGE), f"{said}")
        said.refused(said.code, str(data))
        expect(said.out == "", f"something ran: {said}")


CASES = {"worker-crash": worker_crash, "many": many, "rivals": rivals, "refuses-early": refuses_early}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

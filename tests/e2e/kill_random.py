#!/usr/bin/python3
"""rfork-trace is ended by SIGINT, SIGTERM or SIGKILL at random moments while it works on a process that checks
its own registers, memory and system calls: kill_random.py MOMENTS [file|copy|move]

After a file and after a copy the process goes on unharmed. After a move exactly one copy runs: the original, or the
child. The seed is printed; RFORK_TEST_SEED repeats it.
"""

import os
import random
import signal
import sys
import time

import harness
from harness import INTERRUPTED, expect

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]


class Victim:
    """The traced process of the moment, and what is done to those who trace it."""

    def __init__(self, world, source, ways):
        self.world, self.source = world, source
        self.daemon = harness.Daemon(world, None) if ways != ["file"] else None
        self.target, self.folder = None, None
        self.durations = {}
        self.ends = {}
        self.fresh()

    def fresh(self):
        self.folder = self.world.folder / f"victim-{self.world.number()}"
        self.folder.mkdir()
        self.target = self.world.target("steady", folder=self.folder)

    def arguments(self, way):
        if way == "file":
            return ["-o", self.world.folder / "image.rfork"]
        return ([self.daemon.address, "--move", "--no-ghost"] if way == "move" else [self.daemon.address])

    def start(self, way):
        key = self.daemon.key if self.daemon else None
        return self.world.start_trace(self.target.real_pid, *self.arguments(way), key=key)

    def measure(self, way):
        """How long it takes when nobody interferes."""
        start = time.monotonic()
        self.start(way).wait().expect(0)
        self.durations[way] = time.monotonic() - start
        self.settle(way, 0)

    def strike(self, way):
        number = self.source.choice(SIGNALS)
        moment = self.source.random() * self.durations[way] * 1.2
        tracer = self.start(way)
        time.sleep(moment)  # the moment is what is tested
        tracer.signal(number)
        said = tracer.wait()
        ended = {0: "done", -number: "killed", INTERRUPTED: "interrupted"}.get(said.code)
        expect(ended, f"{way}, {number.name} after {moment * 1000:.1f} ms: {said}")
        self.ends[ended] = self.ends.get(ended, 0) + 1
        self.settle(way, said.code, f"{way}, {number.name} after {moment * 1000:.1f} ms: {said}")

    def settle(self, way, code, what=""):
        """Waits until everything has come to rest and judges it."""
        here = lambda: self.target.running() and not is_stopped(self.target.pid)
        there = self.daemon.settled if self.daemon else list
        now = lambda: (f"{what}\noriginal runs: {here()}, children: {there()}\n"
                       f"{harness.state_of(self.target.pid)}")
        if way == "move":
            # The keeper that sees a commit through may need a moment.
            harness.wait_until(lambda: here() + len(there()) == 1, now, 30)
            time.sleep(0.01)
            expect(here() + len(there()) == 1, f"it didn't stay that way: {now()}")
        else:
            harness.wait_until(here, now, 10)
        for child in there():
            self.world.go(self.folder) if way == "move" else self.daemon.ctl("kill", str(child["id"]), "KILL")
            ended = self.daemon.finished(str(child["id"]))
            if way == "move":
                ended.expect(0, out="ok\n")  # it checked itself
            self.daemon.ctl("rm", str(child["id"]))
        if not self.target.running():
            self.target.wait()
            self.fresh()
        left = [name for name in os.listdir(self.world.folder) if "image" in name and name != "image.rfork"]
        expect(way != "file" or code == -signal.SIGKILL or not left, f"left behind: {left}: {what}")
        for name in left:
            os.unlink(self.world.folder / name)


def is_stopped(pid):
    state = harness.state_of(pid)
    return ": T " in state or ": t " in state


def survives(world, moments, ways):
    seed = os.environ.get("RFORK_TEST_SEED", str(random.randrange(1 << 30)))
    print(f"RFORK_TEST_SEED={seed}", flush=True)
    source = random.Random(seed)
    victim = Victim(world, source, ways)
    for way in ways:
        victim.measure(way)
    for _ in range(moments):
        victim.strike(source.choice(ways))
    print(victim.ends)
    world.go(victim.folder)
    victim.target.wait().expect(0, out="ok\n")


if __name__ == "__main__":
    harness.TEST_DEADLINE = max(harness.TEST_DEADLINE, int(sys.argv[1]) * 2)
    harness.main(survives, int(sys.argv[1]), sys.argv[2:] or ["file", "copy", "move"])

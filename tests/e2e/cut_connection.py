#!/usr/bin/python3
"""The connection breaks at many bytes of the conversation, in both directions: after a copy the original is
unharmed; after a move exactly one side runs: cut_connection.py copy|move CUTS [deaf]

deaf: the daemon can't be asked again either, so a move may end in doubt; then the original must be
stopped, and the daemon must not let a second one run.
"""

import os
import random
import signal
import sys

import harness
from harness import IN_DOUBT, LOST, REFUSED, expect
from proxy import Proxy


def stopped(pid):
    return harness.state_of(pid).count(": T ") > 0


class Trial:
    def __init__(self, world, way, deaf):
        self.world, self.way, self.deaf = world, way, deaf
        self.daemon = harness.Daemon(world, None)
        self.target, self.folder = None, None

    def fresh_target(self):
        if self.target is None or not self.target.running():
            self.folder = self.world.folder / f"target-{self.world.number()}"
            self.folder.mkdir()
            self.target = self.world.target("steady", folder=self.folder)
        return self.target

    def send(self, **limits):
        """One attempt through a relay that cuts; gives the relay and what rfork-trace said."""
        target = self.fresh_target()
        relay = Proxy(self.daemon.address, again=not self.deaf, **limits)
        options = ["--move", "--no-ghost"] if self.way == "move" else []
        said = self.world.trace(target.real_pid, relay.address, *options, key=self.daemon.key, seconds=150)
        relay.close()
        return relay, said

    def judge(self, where, said):
        running = self.daemon.settled()
        original = self.target.running() and not stopped(self.target.pid)
        context = f"{where}: original runs: {original}, children: {running}\n{said}"
        if said.code == 0:
            expect(len(running) == 1, f"success without a child: {context}")
            expect(original == (self.way == "copy"), f"the wrong side runs: {context}")
        elif said.code == IN_DOUBT:
            expect(self.way == "move" and self.deaf, f"no doubt was expected: {context}")
            expect(self.target.running() and stopped(self.target.pid), f"in doubt, not stopped: {context}")
            expect(len(running) <= 1 and "kill -CONT" in said.err, context)
            os.kill(self.target.pid, signal.SIGCONT)
        else:
            expect(said.code in (LOST, REFUSED), f"an unexpected exit code: {context}")
            said.refused(said.code)
            expect(original, f"the original doesn't run: {context}")
            # A copy that was let go in the last moment may run though nobody could say so.
            expect(self.way == "copy" or not running, f"both run: {context}")
        for child in running:
            self.daemon.ctl("kill", str(child["id"]), "KILL")
            self.daemon.finished(str(child["id"]))


def cuts(total, count):
    """The first bytes, where most messages are, and the last; the rest at random."""
    source = random.Random(os.environ.get("RFORK_TEST_SEED", str(os.getpid())))
    near = [source.randrange(1, min(total, 6000)) for _ in range(count // 3)]
    far = [total - source.randrange(0, min(total, 1200)) for _ in range(count // 3)]
    rest = [source.randrange(1, total) for _ in range(count - len(near) - len(far))]
    return sorted(near + far + rest)


def breaks(world, way, count, deaf):
    trial = Trial(world, way, deaf)
    whole, said = trial.send()
    said.expect(0)
    trial.judge("no cut", said)
    for direction in ("up", "down"):
        for at in cuts(whole.passed[direction], count):
            _, said = trial.send(**{direction: at})
            trial.judge(f"cut {direction} at byte {at} of {whole.passed[direction]}", said)
    trial.fresh_target()
    world.go(trial.folder)
    trial.target.wait().expect(0, out="ok\n")


if __name__ == "__main__":
    harness.main(breaks, sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3)

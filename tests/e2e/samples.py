#!/usr/bin/python3
"""The samples, as the README shows them, on two hosts: samples.py NAME root|user"""

import os
import signal
import subprocess
import sys

import harness
from harness import expect, wait_until


class Stage:
    def __init__(self, world):
        self.world = world
        self.here, self.there = world.two_hosts()
        self.daemon = harness.Daemon(world, self.there)
        self.home = harness.Daemon(world, self.here, key=self.daemon.key)
        self.environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace"), "RFORK_KEY": str(self.daemon.key)}

    def run(self, name, *arguments):
        return self.world.run([self.world.build / "samples" / name, *arguments], host=self.here, env=self.environment)


def hello(stage):
    said = stage.run("hello", stage.daemon.address).expect(0).out.splitlines()
    expect(said[0].startswith("child: pid ") and said[1].endswith("ended with 7"), f"{said}")


def silly(stage):
    said = stage.run("silly", stage.daemon.address).expect(0).out.splitlines()
    for who in ("parent", "child"):
        own = [line for line in said if line.startswith(who)]
        expect(own == [f"{who} {i}" for i in range(10)], f"{said}")


def freeze(stage):
    file = stage.world.folder / "frozen"
    stage.run("freeze", file).expect(0, out=f"frozen into {file}\n")
    for _ in range(2):
        stage.world.run([file]).expect(0, out="thawed: the answer is still 42\n")


def tour(stage):
    said = stage.run("tour", stage.daemon.address, stage.home.address).expect(0).out.splitlines()
    expect(len(said) == 2 and said[0].startswith("stop 1: ") and said[1].startswith("stop 2: "), f"{said}")


def pi(stage):
    result = stage.run("pi", stage.daemon.address, stage.home.address, "127.0.0.1:1").expect(0)
    said = result.out.splitlines()
    expect(said[-1] == "pi is about 3.141593, by 3 workers" and "worker 2 on 127.0.0.1:1 is lost" in said[0], f"{result}")


def textfile(stage):
    said = stage.run("textfile", stage.world.folder / "text", stage.daemon.address).expect(0).out.splitlines()
    expect(said[1:] == ["the child goes on", "the parent goes on"], f"{said}")


def counter(stage):
    world = stage.world
    script = os.path.join(os.path.dirname(__file__), "../../samples/counter.py")
    process = subprocess.Popen(stage.here.enter + world.drop + ["/usr/bin/python3", "-u", script], text=True,
                               stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    count = int(process.stdout.readline().rsplit(": ", 1)[1])
    world.trace("--move", process.pid, stage.daemon.address, host=stage.here, key=stage.daemon.key).expect(0)
    for i in range(10):
        expect(process.stdout.readline().endswith(f": {count + 1 + i}\n"), "it doesn't count on")
    process.send_signal(signal.SIGTERM)
    expect(process.wait(20) == -signal.SIGTERM, "its end")
    wait_until(lambda: not stage.daemon.living(), "the child has ended")


CASES = {"hello": hello, "silly": silly, "freeze": freeze, "tour": tour, "pi": pi, "textfile": textfile,
         "counter": counter}

if __name__ == "__main__":
    harness.main(lambda world: CASES[sys.argv[1]](Stage(world)), user=sys.argv[2] == "user")

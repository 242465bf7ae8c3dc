#!/usr/bin/python3
"""What a child of rfork() inherits, whose other end its parent has (tests/targets/relayed.c): rfork_relays.py CASE root|user

What each case expects is first seen of fork()."""

import os
import sys

import harness


def run(world, case):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace"), "RFORK_KEY": str(daemon.key)}
    for host in ("local", daemon.address):
        world.run([world.build / "targets" / "relayed", world.folder, case, host], host=here,
                  env=environment).expect(0, out="ok\n")
    harness.wait_until(lambda: not daemon.living(), "all children have ended")


if __name__ == "__main__":
    harness.main(run, sys.argv[1], user=sys.argv[2] == "user")

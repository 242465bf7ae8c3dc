#!/usr/bin/python3
"""rfork() as programs call it (tests/targets/rforks.c, as C99 and as C++17): rfork.py CASE root|user"""

import os
import sys

import harness
from harness import expect


def run(world, case):
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace"), "RFORK_KEY": str(daemon.key)}
    for program in ("rforks_c", "rforks_cc")[:1 if case == "crowd" else 2]:
        said = world.run([world.build / "targets" / program, world.folder, case, daemon.address], host=here,
                         env=environment)
        if case == "move":
            expect(said.code == 33 and said.out == "ok\n", f"{said}")
        else:
            said.expect(0, out="ok\n")
    harness.wait_until(lambda: not daemon.living(), "all children have ended")


if __name__ == "__main__":
    harness.main(run, sys.argv[1], user=sys.argv[2] == "user")

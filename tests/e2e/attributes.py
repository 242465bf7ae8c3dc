#!/usr/bin/python3
"""What needs a privilege that the restorer lacks: attributes.py refused|dropped|niced|groups

Root's process with real-time threads and the like, restored by an ordinary user: refused by name; with
--drop-attributes, of either side, it goes on without, and that is said.
niced:  by a rfork-run of a lower priority
groups: so are fanotify groups of mounts and file systems, by a daemon before the process is touched
"""

import os
import sys

import harness
from harness import REFUSED, expect

AS_USER = ["setpriv", f"--reuid={harness.ORDINARY}", f"--regid={harness.ORDINARY}", "--clear-groups"]
LACKS = ["the nice value -4", "SCHED_DEADLINE", "IOPRIO_CLASS_RT", "real-time priority 7"]


def image_of_root(world, *options, program=("process_scheduling",)):
    if not world.root:
        raise harness.Skip("only root can have such attributes")
    target = world.target(*program)
    image = world.folder / "image.rfork"
    world.trace(target.real_pid, *options, "-o", image).expect(0)
    image.chmod(0o644)
    world.folder.chmod(0o755)
    return target, image


def finish(world, target):
    world.go()
    target.wait().expect(0, out="ok\n")


def refused(world):
    target, image = image_of_root(world)
    said = world.run([*AS_USER, world.program("rfork-run"), image])
    expect(said.code == REFUSED and all(word in said.err for word in LACKS), f"{said}")
    expect(said.err.count("--drop-attributes") == len(LACKS), f"{said}")
    finish(world, target)


def dropped(world):
    target, image = image_of_root(world)
    goes_on(world, image, "--drop-attributes")
    finish(world, target)
    os.remove(world.folder / "go")
    target, image = image_of_root(world, "--drop-attributes")
    goes_on(world, image)
    finish(world, target)


def groups(world):
    target, image = image_of_root(world, program=("file_fanotify", "wide"))
    lacks = "a fanotify group of root's, which needs CAP_SYS_ADMIN there"
    said = world.run([*AS_USER, world.program("rfork-run"), image])
    expect(said.code == REFUSED and lacks in said.err and "--drop-fd" in said.err, f"{said}")
    world.folder.chmod(0o777)
    daemon = harness.Daemon(world, None, "--allow-root", program=[*AS_USER, world.program("rforkd")], key=None)
    for check in (["--check"], []):
        said = world.trace(*check, target.real_pid, daemon.address)
        expect(said.code == REFUSED and "CAP_SYS_ADMIN there" in " ".join((said.out + said.err).split()), f"{said}")
    finish(world, target)


def goes_on(world, image, *options):
    run = [*AS_USER, world.program("rfork-run"), "-d", "--json", *options, image]
    result = world.run(run).expect(0).json()
    for word in LACKS:
        expect(any(word in line for line in result["warnings"]), f"no word of {word}: {result}")
    threads = os.listdir(f"/proc/{result['pid']}/task")
    policies = {os.sched_getscheduler(int(tid)) & ~os.SCHED_RESET_ON_FORK for tid in threads}
    expect(policies == {os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE}, f"policies: {policies}")
    os.kill(result["pid"], 9)


def niced(world):
    """Whom only rfork-run's own nice value stands in the way keeps that, whatever its policy."""
    code = ("import os, time\nos.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
            "print('ready', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
            "print(os.sched_getscheduler(0) == os.SCHED_BATCH, os.nice(0), flush=True)\n")
    program = world.start([*AS_USER, "/usr/bin/python3", "-c", code])
    expect(program.line() == "ready", "ready")
    image = world.folder / "image.rfork"
    world.trace(program.pid, "-o", image).expect(0)
    image.chmod(0o644)
    world.folder.chmod(0o755)
    world.go()
    world.run(["nice", "-n", "10", *AS_USER, world.program("rfork-run"), image]).expect(0, out="True 10\n")
    program.wait().expect(0, out="True 0\n")


if __name__ == "__main__":
    harness.main({"refused": refused, "dropped": dropped, "niced": niced, "groups": groups}[sys.argv[1]])

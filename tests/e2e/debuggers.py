#!/usr/bin/python3
"""Tools that know nothing of rfork open an image and show every thread where it was, without complaint:
debuggers.py gdb|eu-stack|readelf|python
"""

import os
import re
import shutil
import subprocess
import sys

import harness
from harness import expect

# The functions of tests/targets/steady.cc, one for each thread beside main.
FUNCTIONS = ["compute", "compute", "call_often", "sleep_often", "wait_long", "main"]


def ask(*argv):
    if not shutil.which(argv[0]):
        raise harness.Skip(f"{argv[0]} isn't installed")
    environment = dict(os.environ, DEBUGINFOD_URLS="", LC_ALL="C", HOME="/nonexistent")
    asked = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env=environment, check=False)
    return harness.Result(argv, asked.returncode, asked.stdout, asked.stderr)


def without_complaint(result):
    result.expect(0)
    # gdb shows where a stop is in the source, which isn't installed.
    said = [line for line in result.err.splitlines()
            if line.strip() and not re.match(r"\d+\t\S+: No such file or directory\.$", line)]
    expect(not said, f"a complaint: {result}")
    for word in ("warning:", "Warning", "error:", "corrupt", "truncated"):
        expect(word not in result.out, f"{word!r} in {result}")
    return result


def each_function(text, marker):
    """Every thread's stack, as the tool lists them, has its function."""
    stacks = text.split(marker)[1:]
    expect(len(stacks) == len(FUNCTIONS), f"{len(FUNCTIONS)} threads were expected:\n{text}")
    left = list(FUNCTIONS)
    for stack in stacks:
        found = [name for name in left if name in stack.replace("_start_main", "")]
        expect(found, f"a thread that is nowhere:\n{stack}\nof\n{text}")
        left.remove(found[0])


def image_of(world, pid):
    image = world.folder / "image.rfork"
    world.trace(pid, "-o", image).expect(0)
    return image


def steady(world, tool):
    target = world.target("steady")
    program = world.build / "targets/steady"
    image = image_of(world, target.real_pid)
    if tool == "gdb":
        shown = without_complaint(ask("gdb", "-nx", "-batch", "-ex", "thread apply all bt", program, image))
        each_function(shown.out, "\nThread ")
        shown = without_complaint(ask("gdb", "-nx", "-batch", "-ex", "info proc mappings", "-ex", "info registers",
                                      "-ex", "info auxv", "-ex", "print '(anonymous namespace)::released'", program, image))
        expect("AT_ENTRY" in shown.out and "rip" in shown.out, f"{shown}")
    elif tool == "eu-stack":
        shown = without_complaint(ask("eu-stack", "--core", image, "-e", program))
        each_function(shown.out, "TID ")
    else:
        for argv in (["readelf", "-lnW"], ["readelf", "-aW"], ["eu-readelf", "-ln"], ["eu-readelf", "-a"]):
            shown = without_complaint(ask(*argv, image))
            expect("LOAD" in shown.out and "PRSTATUS" in shown.out, f"{shown}")
            expect(shown.out.count("PRSTATUS") >= len(FUNCTIONS), f"a thread is missing: {shown}")
    world.go()
    target.wait().expect(0, out="ok\n")


def python(world):
    """A program that nobody here wrote: gdb and eu-stack name its threads' functions in libc at least."""
    script = ("import threading, time\nfor n in range(3): threading.Thread(target=time.sleep, args=(60,), "
              "daemon=True).start()\nprint('up', flush=True)\ntime.sleep(60)\n")
    process = world.start(["/usr/bin/python3", "-c", script])
    process.line()
    image = image_of(world, process.pid)
    shown = without_complaint(ask("gdb", "-nx", "-batch", "-ex", "thread apply all bt", "/usr/bin/python3", image))
    expect(shown.out.count("\nThread ") == 4, f"four threads were expected: {shown}")
    expect(shown.out.count("nanosleep") + shown.out.count("select") >= 4, f"no stacks: {shown}")
    shown = ask("eu-stack", "--core", image, "-e", "/usr/bin/python3").expect(0)
    expect(shown.out.count("TID ") == 4, f"four threads were expected: {shown}")


if __name__ == "__main__":
    if sys.argv[1] == "python":
        harness.main(python)
    harness.main(steady, sys.argv[1])

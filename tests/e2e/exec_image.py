#!/usr/bin/python3
"""Images that run by themselves (rfork-trace -o FILE --exec): exec_image.py CASE root|user"""

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys

import bad_image
import bare_root
import debuggers
import harness
from harness import BAD_IMAGE, INTERNAL, USAGE, expect

PAGE = 4096
SEAL = 64


def job_of(world, target, *options):
    job = world.folder / "job"
    world.trace(target.real_pid, "-o", job, "--exec", *options).expect(0)
    return job


def without_libraries(world):
    """Whether rfork-run was built as it should be; builds with sanitizers can't be."""
    shown = subprocess.run(["readelf", "-lW", world.program("rfork-run")], capture_output=True, text=True, check=True)
    return "INTERP" not in shown.stdout


def front_size(job):
    """Where its image starts: e_flags, in pages."""
    return int.from_bytes(job.read_bytes()[48:52], "little") * PAGE


def runs(world):
    target = world.target("steady")
    job = job_of(world, target)
    expect(stat.S_IMODE(job.stat().st_mode) == 0o700, f"mode {job.stat().st_mode:o}")
    expect(front_size(job) < 5 << 20 or not without_libraries(world), f"a loader of {front_size(job)} bytes")
    first, second = world.start([job]), world.start([job])
    world.go()
    for process in (target, first, second):
        process.wait().expect(0, out="ok\n")


def moves(world):
    target = world.target("steady")
    job = job_of(world, target, "--move")
    expect(target.wait().code == -signal.SIGKILL, "the original should have been ended")
    child = world.start([job])
    world.go()
    child.wait().expect(0, out="ok\n")


def bare(world):
    """The destination's root folder holds the file, /proc and /dev, and nothing else."""
    if os.geteuid() != 0:
        raise harness.Skip("a root folder is furnished as root only")
    if not without_libraries(world):
        raise harness.Skip("this build's rfork-run needs shared libraries")
    here, there = world.two_hosts()
    plain = subprocess.run(["/usr/bin/python3", "-c", bare_root.SCRIPT], capture_output=True, text=True, check=True)
    process = world.start(["/usr/bin/python3", "-c", bare_root.SCRIPT], host=here, cwd="/")
    expect(process.line() == "middle", f"it ended early: {process.early}")
    job = world.folder / "job"
    world.trace("--move", process.pid, "-o", job, "--exec", host=here).expect(0)
    expect(process.wait().code == -signal.SIGKILL, "the original should have been ended")
    root = world.folder / "root"
    for name in ("proc", "dev"):
        (root / name).mkdir(parents=True)
    for device in ("null", "zero", "full", "random", "urandom"):
        (root / "dev" / device).touch()
        there.call("mount", "--bind", f"/dev/{device}", str(root / "dev" / device))
    there.call("mount", "-t", "proc", "proc", str(root / "proc"))
    world.folder.chmod(0o755)
    shutil.copy(job, root / "job")
    shutil.chown(root / "job", *([harness.ORDINARY] * 2 if world.user else [0, 0]))
    user = [f"--userspec={harness.ORDINARY}:{harness.ORDINARY}"] if world.user else []
    world.drop = []  # chroot is called as root and becomes the user
    child = world.run(["chroot", *user, root, "/job"], host=there).expect(0)
    expect("sum " in child.out and plain.stdout.endswith(child.out), f"other output than {plain.stdout!r}: {child}")


def arguments(world):
    target = world.target("steady")
    job = job_of(world, target)
    for words in (["--help"], ["-d"], ["other-image"], ["-", "--"]):
        world.run([job, *words]).refused(USAGE, "--")
    shown = world.run([job, "--", "--help"]).expect(0, out=["--pidfile", f"{job} --"])
    expect("IMAGE" not in shown.out, f"it has its image: {shown}")
    world.run([job, "--", "--version"]).expect(0, out="rfork-run")
    world.run([job, "--", "another-image"]).expect(USAGE)
    pid_file = world.folder / "pid"
    done = world.run([job, "--", "-d", "--json", "--pidfile", pid_file, "--pid", "new"]).expect(0)
    pid = json.loads(done.out)["pid"]
    expect(int(pid_file.read_text()) == pid, f"another pid than in {pid_file}: {done}")
    expect(pathlib.Path(f"/proc/{pid}").exists(), "it doesn't run")
    world.go()
    harness.wait_until(lambda: not pathlib.Path(f"/proc/{pid}/exe").exists(), "the child ended")
    target.wait().expect(0, out="ok\n")


def read_by_others(world):
    """rfork-dump and rfork-run take both forms, from a file and from a pipe."""
    target = world.target("steady")
    job = job_of(world, target)
    dump, front, whole = world.program("rfork-dump"), front_size(job), job.read_bytes()
    world.run([dump, "--verify", job]).expect(0, out=["whole", f"{len(whole) - front} bytes", str(front)])
    for mode in ([], ["-m"], ["-a"], ["--json"]):
        world.run([dump, *mode, job]).expect(0, out="steady")
        with open(job, "rb") as pipe:
            world.run([dump, *mode, "-"], stdin=pipe).expect(0, out="steady")

    core = world.folder / "core"
    core.write_text("what was there before")
    world.run([dump, "--core", core, job]).expect(0, out="whole")
    expect(core.read_bytes() == whole[front:], "the core file isn't what stands behind the loader")
    expect(stat.S_IMODE(core.stat().st_mode) == 0o600, f"mode {core.stat().st_mode:o}")
    again = subprocess.run([*world.drop, dump, "--core", "-", core], capture_output=True, check=True)
    expect(again.stdout == whole[front:], "--core - of a plain image isn't that image")
    world.run([dump, "--core", "-", "--verify", job]).refused(USAGE, "--core -")
    world.run([dump, "--core", world.folder, job]).refused(USAGE, "directory")

    streamed = subprocess.run([*world.drop, world.program("rfork-trace"), str(target.real_pid), "-o", "-", "--exec"],
                              capture_output=True, check=True)
    expect(streamed.stdout[:front] == whole[:front], "another loader into a pipe")
    with open(job, "rb") as pipe:
        children = [world.start([world.program("rfork-run"), job]),
                    world.start([world.program("rfork-run"), "-"], stdin=pipe)]
    world.go()
    for process in (target, *children):
        process.wait().expect(0, out="ok\n")


def damaged(world):
    target = world.target("beacon")
    job = job_of(world, target)
    target.kill()
    whole, front = job.read_bytes(), front_size(job)
    bad = world.folder / "bad"
    core = world.folder / "core"

    def refused(contents, itself):
        bad.write_bytes(contents)
        bad.chmod(0o755)
        commands = [[world.program("rfork-run"), bad], [world.program("rfork-dump"), "--core", core, bad]]
        for command in commands + ([[bad]] if itself else []):
            said = world.run(command)
            said.refused(BAD_IMAGE, "bad")
            expect(said.out == "", f"something ran: {said}")
        expect(not core.exists() and len(list(world.folder.glob("core*"))) == 0, "half a core file is left")

    def altered(at):
        return whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:]

    # Behind the mark a loader is a loader; altered before it, it is any program.
    for at in (48, 64, 100, PAGE, front // 2, front - SEAL, front - 1):
        refused(altered(at), itself=False)
        refused(whole[:at], itself=False)
    image = len(whole) - front
    for at in bad_image.places(image, 12)[::25] + [image - 1]:
        refused(altered(front + at), itself=True)
        refused(whole[:front + at], itself=True)
    refused(whole + b"more", itself=True)


def debugged(world):
    target = world.target("steady")
    job, core, program = job_of(world, target), world.folder / "core", world.build / "targets/steady"
    world.run([world.program("rfork-dump"), "--core", core, job]).expect(0)
    shown = debuggers.without_complaint(
        debuggers.ask("gdb", "-nx", "-batch", "-ex", "thread apply all bt", program, core))
    debuggers.each_function(shown.out, "\nThread ")
    shown = debuggers.without_complaint(debuggers.ask("eu-stack", "--core", core, "-e", program))
    debuggers.each_function(shown.out, "TID ")
    shown = debuggers.without_complaint(debuggers.ask("readelf", "-hlW", job))
    expect("LOAD" in shown.out, f"{shown}")
    world.go()
    target.wait().expect(0, out="ok\n")


def no_loader(world):
    """rfork-trace says where it looked, before it touches the process."""
    target = world.target("steady")
    alone = world.folder / "alone/bin"
    alone.mkdir(parents=True)
    alone.chmod(0o755), alone.parent.chmod(0o755)
    shutil.copy(world.program("rfork-trace"), alone)
    trace = [alone / "rfork-trace", target.real_pid, "-o", world.folder / "job", "--exec"]
    nowhere = dict(os.environ, PATH="/nowhere")
    setpriv = shutil.which("setpriv")
    world.drop = [setpriv, *world.drop[1:]] if world.drop else []
    world.run(trace, env=nowhere).refused(INTERNAL, "rfork-run", str(alone), "libexec/rfork", "/nowhere")
    expect(not (world.folder / "job").exists(), "a file without a loader was written")
    libexec = world.folder / "alone/libexec/rfork"
    libexec.mkdir(parents=True)
    (libexec / "rfork-run").write_text("#!/bin/sh\n")
    (libexec / "rfork-run").chmod(0o755)
    world.run(trace, env=nowhere).refused(INTERNAL, "libexec/rfork/rfork-run", "no program")
    shutil.copy(world.program("rfork-run"), libexec)
    world.run(trace, env=nowhere).expect(0)
    world.trace(target.real_pid, "host", "--exec").refused(USAGE, "--exec")
    child = world.start([world.folder / "job"])
    world.go()
    for process in (target, child):
        process.wait().expect(0, out="ok\n")


CASES = {"runs": runs, "moves": moves, "bare": bare, "arguments": arguments, "read-by-others": read_by_others,
         "damaged": damaged, "debugged": debugged, "no-loader": no_loader}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

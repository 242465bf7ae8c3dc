#!/usr/bin/python3
"""What a person sees and relies on at the terminal: cli.py CASE"""

import os
import re
import signal
import subprocess
import sys
import time

import harness
from harness import USAGE, expect, wait_until


def state(pid):
    return open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()[0]


def closing_line(world):
    """4242 → 10.0.0.2 pid 977, 38.2 MiB in 61 ms, paused 12 ms"""
    target = world.target("steady")
    daemon = harness.Daemon(world, None)
    said = world.trace(target.real_pid, daemon.address, key=daemon.key).expect(0)
    size, duration = r"[\d.]+ (bytes|[KMG]iB)", r"[\d.]+ (ms|s|µs)"
    line = rf"{target.real_pid} → 127\.0\.0\.1(:\d+)? pid \d+, {size} in {duration}, paused {duration}"
    expect(re.search(line, said.out + said.err), f"no closing line like {line}: {said}")
    said = world.trace(target.real_pid, "-o", world.folder / "image").expect(0)
    line = rf"{target.real_pid} → \S*image, {size} in {duration}, paused {duration}"
    expect(re.search(line, said.out + said.err), f"no closing line like {line}: {said}")
    result = world.trace(target.real_pid, daemon.address, "--json", key=daemon.key).expect(0).json()
    for name in ("pid", "child_pid", "child_id", "wire_bytes", "paused_ns", "total_ns"):
        expect(name in result, f"{name} isn't in {result}")
    failed = world.trace(target.real_pid, "127.0.0.1:1", "--json")
    failed.expect(harness.LOST)
    expect(failed.json()["error"] == "connection_lost", f"{failed}")


def help_and_usage(world):
    for name in ("rfork-trace", "rfork-run", "rforkd", "rforkctl", "rfork-dump"):
        said = world.run([world.program(name), "--help"]).expect(0)
        lines = said.out.splitlines()
        expect(len(lines) <= 50 and max(map(len, lines)) <= 100, f"it doesn't fit a screen: {said}")
        expect("xample" in said.out, f"no examples: {said}")
        world.run([world.program(name), "--version"]).expect(0)
        said = world.run([world.program(name), "1", "--no-such-option"])
        expect(said.code == USAGE and said.err.strip(), f"{said}")
    for arguments in ([], ["1"], ["1", "host", "-o", "file"], ["--move", "1", "-o", "-"]):
        said = world.run([world.program("rfork-trace"), *arguments])
        expect(said.code == USAGE and said.err.strip(), f"{said}")


def children(world):
    """rforkctl ps, logs, kill, wait, rm."""
    daemon = harness.Daemon(world, None)
    expect(daemon.children() == [], "children before there were any")
    script = "import sys, time\nprint('out', flush=True)\nn = 0\nwhile True:\n time.sleep(0.005)\n n += 1\n" \
             " print('count', n, flush=True)\n print('err', file=sys.stderr, flush=True)\n"
    process = world.start(["/usr/bin/python3", "-c", script])
    process.line()
    world.trace(process.pid, daemon.address, key=daemon.key).expect(0)
    process.kill()
    child = daemon.child_id()
    entry = daemon.children()[0]
    expect(entry["name"] == "python3" and entry["state"] == "running", f"{entry}")
    expect(state(entry["pid"]) in "SRD", "the child isn't running")
    shown = daemon.ctl("ps").expect(0).out
    for text in ("python3", child, str(entry["pid"]), "running"):
        expect(text in shown, f"{text!r} isn't in {shown}")
    wait_until(lambda: "count" in daemon.ctl("logs", child).out and "err" in daemon.ctl("logs", child).out,
               "its output is in its log")
    said = daemon.ctl("rm", child)  # it runs
    said.refused(said.code, child)
    expect(said.code != 0, "a running child was forgotten")
    daemon.ctl("kill", child).expect(0)
    code = daemon.ctl("wait", child).code
    expect(code == 128 + signal.SIGTERM, f"exit code of wait: {code}")
    entry = daemon.children()[0]
    expect(entry["state"] == "ended", f"{entry}")
    expect("count" in daemon.ctl("logs", child).expect(0).out, "the log of an ended child is gone")
    daemon.ctl("rm", child).expect(0)
    expect(daemon.children() == [], "it isn't forgotten")
    for command in ("logs", "kill", "wait", "rm"):
        said = daemon.ctl(command, "4711")
        expect(said.code != 0, f"{said}")
        said.refused(said.code, "4711")
    said = world.run([world.program("rforkctl"), daemon.address, "ps"])
    said.refused(harness.REFUSED, "key")


def stopped(world):
    """A stopped process stays stopped, here and there, and SIGCONT lets each go on."""
    target = world.target("steady")
    os.kill(target.real_pid, signal.SIGSTOP)
    wait_until(lambda: state(target.real_pid) == "T", "it is stopped")
    daemon = harness.Daemon(world, None)
    world.trace(target.real_pid, daemon.address, key=daemon.key).expect(0)
    expect(state(target.real_pid) == "T", f"the original is {state(target.real_pid)}, not stopped")
    entry = daemon.children()[0]
    wait_until(lambda: state(entry["pid"]) == "T", "the child is stopped")
    image = world.folder / "image"
    world.trace(target.real_pid, "-o", image).expect(0)
    expect(state(target.real_pid) == "T", f"the original is {state(target.real_pid)}, not stopped")
    world.go()
    time.sleep(0.1)
    expect(state(entry["pid"]) == "T" and state(target.real_pid) == "T", "it went on by itself")
    daemon.ctl("kill", str(entry["id"]), "CONT").expect(0)
    daemon.finished(str(entry["id"])).expect(0, out="ok\n")
    os.kill(target.real_pid, signal.SIGCONT)
    target.wait().expect(0, out="ok\n")


def stdio(world):
    """Standard descriptors: empty and a log at a daemon; rfork-run's own in the foreground."""
    script = ("import os, sys\nprint('ready', flush=True)\n"
              "while not os.path.exists(sys.argv[1]): pass\n"
              "print('read', sys.stdin.read(), flush=True)\nprint('err', file=sys.stderr)\n")
    process = world.start(["/usr/bin/python3", "-c", script, world.folder / "go"], stdin=subprocess.PIPE)
    expect(process.line() == "ready", "ready")
    daemon = harness.Daemon(world, None)
    image = world.folder / "image"
    world.trace(process.pid, daemon.address, key=daemon.key).expect(0)
    world.trace(process.pid, "-o", image).expect(0)
    foreground = world.start([world.program("rfork-run"), image], stdin=subprocess.PIPE)
    world.go()
    process.popen.stdin.write("original's")
    foreground.popen.stdin.write("foreground's")
    process.wait().expect(0, out="read original's\n", err="err\n")
    foreground.wait().expect(0, out="read foreground's\n", err="err\n")
    child = daemon.finished(daemon.child_id()).expect(0)
    expect("read \n" in child.out and "err\n" in child.out, f"{child}")


def pipe(world):
    """rfork-trace PID -o - | rfork-run -"""
    target = world.target("steady")
    with world.start([world.program("rfork-trace"), target.real_pid, "-o", "-"]).popen as sender:
        copy = world.start([world.program("rfork-run"), "-"], stdin=sender.stdout)
        sender.stdout.close()
        sender.stdout = None
        expect(sender.wait() == 0, f"rfork-trace: {sender.stderr.read()}")
    world.go()
    copy.wait().expect(0, out="ok\n")
    target.wait().expect(0, out="ok\n")


def detached(world):
    """rfork-run -d --pidfile F"""
    target = world.target("steady")
    image, pidfile = world.folder / "image", world.folder / "pid"
    world.trace(target.real_pid, "-o", image, "--move").expect(0)
    expect(target.wait().code == -signal.SIGKILL, "the original should have been ended")
    world.run([world.program("rfork-run"), "-d", "--pidfile", pidfile, image]).expect(0)
    pid = int(pidfile.read_text())
    count = (world.folder / "count").read_bytes()
    wait_until(lambda: (world.folder / "count").read_bytes() != count, "the child counts on")
    expect(state(pid) in "SRD", "the child isn't there")
    world.go()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}") or state(pid) == "Z", "the child ends")


def pids(world):
    """--pid keep and new, as the child sees itself; ids that libc keeps are right either way."""
    script = ("import os, sys, threading, time\nprint('ready', flush=True)\n"
              "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
              "print(os.getpid(), threading.get_native_id(), flush=True)\n")
    process = world.start(["/usr/bin/python3", "-c", script, world.folder / "go"])
    expect(process.line() == "ready", "ready")
    image = world.folder / "image"
    world.trace(process.pid, "-o", image).expect(0)
    runs = {mode: world.start([world.program("rfork-run"), "--pid", mode, image]) for mode in ("keep", "new", "auto")}
    world.go()
    said = {mode: run.wait().expect(0).out.split() for mode, run in runs.items()}
    for mode in ("keep", "auto"):
        expect(said[mode] == [str(process.pid)] * 2, f"{mode}: {said}, not {process.pid}")
    expect(said["new"][0] != str(process.pid), f"new: {said}")
    process.wait().expect(0)


def number_taken(world):
    """A pid that is still the number of a process group, or of a session, is kept in a pid namespace."""
    script = ("import os, sys, time\n"
              "if sys.argv[2] == 'session':\n"
              "    os.setsid()\n"
              "    if os.fork() == 0:\n"
              "        if os.fork() == 0:\n"
              "            os.setpgid(0, 0)\n"
              "            os.close(1), os.close(2)\n"
              "            while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
              "        os._exit(0)\n"
              "    os.wait()\n"
              "print('ready', flush=True)\n"
              "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
              "print(os.getpid(), flush=True)\n")
    for kind in ("group", "session"):
        go = world.folder / f"go-{kind}"
        process = world.start(["/usr/bin/python3", "-c", script, go, kind], process_group=0 if kind == "group" else None)
        expect(process.line() == "ready", "ready")
        if kind == "group":
            world.start(["sleep", "60"], process_group=process.pid)
        image = world.folder / kind
        world.trace(process.pid, "--move", "-o", image).expect(0)
        process.wait()
        run = world.start([world.program("rfork-run"), image])
        go.touch()
        run.wait().expect(0, out=f"{process.pid}\n")


def exit_codes(world):
    """rfork-run ends as the child ends."""
    for end, code in (("sys.exit(7)", 7), ("os.kill(os.getpid(), 15)", 128 + 15)):
        script = ("import os, sys, time\nprint('ready', flush=True)\n"
                  f"while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n{end}\n")
        go = world.folder / f"go-{code}"
        process = world.start(["/usr/bin/python3", "-c", script, go])
        process.line()
        image = world.folder / "image"
        world.trace(process.pid, "-o", image).expect(0)
        run = world.start([world.program("rfork-run"), image])
        go.touch()
        ended = run.wait().code
        expect(ended in (code, 128 - code), f"{end}: exit code {ended}")


def dump(world):
    target = world.target("steady")
    image = world.folder / "image"
    world.trace(target.real_pid, "-o", image).expect(0)
    shown = world.run([world.program("rfork-dump"), image]).expect(0).out
    for text in ("steady", str(target.real_pid), "scratch"):
        expect(text in shown, f"{text!r} isn't in {shown}")
    world.run([world.program("rfork-dump"), "--json", image]).expect(0).json()
    thin = world.folder / "thin"
    world.trace(target.real_pid, "--thin", "-o", thin).expect(0)
    expect(thin.stat().st_size < image.stat().st_size, "a thin image is no smaller")
    run = world.start([world.program("rfork-run"), thin])
    world.go()
    run.wait().expect(0, out="ok\n")
    target.wait().expect(0, out="ok\n")


CASES = {"closing-line": closing_line, "help": help_and_usage, "children": children, "stopped": stopped,
         "stdio": stdio, "pipe": pipe, "detached": detached, "pids": pids, "number-taken": number_taken, "exit-codes": exit_codes,
         "dump": dump}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

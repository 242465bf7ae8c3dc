#!/usr/bin/python3
"""A child of rfork() and its ghost while others around them die or wait: rfork_life.py CASE root|user"""

import errno
import os
import pathlib
import signal
import sys
import time

import harness
from harness import expect, wait_until
from rfork_errors import Caller


def start(world, daemon, host=None, **options):
    """A caller whose child runs: the program, and the ghost's pid."""
    caller = Caller(world, daemon.key)
    words = [f"{name}={value}" for name, value in options.items()]
    program = world.start([caller.program, daemon.address, *words], env=caller.environment, host=host)
    line = program.line().split()
    expect(len(line) == 2 and line[0] == "child", f"no child: {line}, {program.popen.stderr.read() if not line else ''}")
    return program, int(line[1])


def stat(pid):
    """State and parent."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return words[0], int(words[1])


def parent_dies(world):
    """The child goes on; its ghost is somebody else's and ends with it."""
    daemon = harness.Daemon(world, None)
    before = harness.processes()
    file = world.folder / "file"
    program, ghost = start(world, daemon, child=f"until:{file}")
    expect(stat(ghost)[1] == program.pid, "the ghost isn't its caller's child")
    os.kill(program.pid, signal.SIGKILL)
    program.popen.wait()
    wait_until(lambda: stat(ghost)[1] != program.pid, "the ghost gets another parent")
    os.kill(ghost, signal.SIGSTOP)
    wait_until(lambda: stat(ghost)[0] in "tT" and daemon.children()[0]["stopped"], "a stop of the orphan")
    os.kill(ghost, signal.SIGCONT)
    wait_until(lambda: not daemon.children()[0]["stopped"], "it goes on")
    expect([child["state"] for child in daemon.children()] == ["running"], f"{daemon.children()}")
    file.touch()
    wait_until(lambda: not daemon.living(), "the child ends")
    harness.nothing_left(before, "after the child's end")
    expect(daemon.ctl("wait", "1").code == 5, "exit status of the child")


def daemon_killed(world):
    """Children, agents and ghosts don't notice."""
    daemon = harness.Daemon(world, None)
    before = harness.processes() - {daemon.process.pid}
    file = world.folder / "file"
    programs = [start(world, daemon, child=f"until:{file}") for _ in range(3)]
    daemon.process.kill()
    for _, ghost in programs:
        os.kill(ghost, signal.SIGSTOP)
        wait_until(lambda pid=ghost: stat(pid)[0] in "tT", "a stop")
        os.kill(ghost, signal.SIGCONT)
    killed, ghost = programs.pop()
    os.kill(ghost, signal.SIGTERM)
    killed.wait(20).expect(0, out=f"ended signal:{signal.SIGTERM.value} sigchld=")
    file.touch()
    for program, ghost in programs:
        program.wait(20).expect(0, out=["until\n", "ended exit:5 "])
    harness.nothing_left(before, "after the children's end")
    Caller(world, daemon.key).fails(daemon.address, errno.EHOSTUNREACH, daemon.address)


def stopped_while_writing(world):
    """A ghost that is stopped for a while in the middle of a stream: it comes late, and whole."""
    daemon = harness.Daemon(world, None)
    count = 300_000
    program, ghost = start(world, daemon, child=f"lines:{count}")
    stream = program.popen.stderr.fileno()
    got = b""
    while len(got) < 400_000:
        got += os.read(stream, 65536)
    os.kill(ghost, signal.SIGSTOP)
    wait_until(lambda: daemon.children()[0]["stopped"] and stat(ghost)[0] in "tT", "both are stopped")
    time.sleep(3)
    expect(daemon.children()[0]["stopped"], "the child went on by itself")
    os.kill(ghost, signal.SIGCONT)
    while part := os.read(stream, 65536):
        got += part
    expect(got == b"".join(b"line %d\n" % i for i in range(count)), f"{len(got)} bytes, and not those")
    program.wait().expect(0, out="ended exit:0 sigchld=")


def last_words(world):
    """A child ends when every buffer on the way is full, because nobody reads: nothing of it is lost."""
    daemon = harness.Daemon(world, None)
    # Into the pipe here and a little more; then so that the window (256 KiB) isn't closed before the last piece of
    # 64 KiB; and as much as the child's own pipe holds.
    for bursts in ((80_000, 50_000, 5 * 65_536), (65_536 * 10 // 2,), (1, 65_000, 4 * 65_536)):
        program, _ = start(world, daemon, child="bursts:" + ",".join(map(str, bursts)))
        wait_until(lambda: not daemon.living(), f"a child that wrote {bursts} ends before it is read")
        got = b""
        while part := os.read(program.popen.stderr.fileno(), 65536):
            got += part
        size = sum(bursts)
        alphabet = b"abcdefghijklmnopqrstuvwxyz"
        expect(got == (alphabet * (size // 26 + 1))[:size], f"{len(got)} bytes of {size}: ... {got[-200:]}")
        program.wait().expect(0, out="ended exit:0 sigchld=1 left=0\n")


CASES = {"last-words": last_words, "parent-dies": parent_dies, "daemon-killed": daemon_killed, "stopped-while-writing": stopped_while_writing}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

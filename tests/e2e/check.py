#!/usr/bin/python3
"""rfork-trace --check: it says what the real run then does, and does nothing: check.py CASE root|user

That it lets every target pass that is carried, target.py sees.
"""

import os
import re
import sys

import harness
from harness import CANNOT_CARRY, CANNOT_TRACE, LOST, REFUSED, USAGE, expect

HOLDS = harness.REPOSITORY / "tests/targets/holds.cc"


def kinds():
    """Whatever the target can hold."""
    return re.findall(r'kind == "([a-z0-9-]+)"', HOLDS.read_text(encoding="utf-8"))


def hold(world, *wanted):
    folder = world.folder / "-".join(wanted)
    folder.mkdir()
    if world.drop:
        os.chown(folder, harness.ORDINARY, harness.ORDINARY)
    target = world.target("holds", *wanted, folder=folder)
    target.folder = folder
    return target


def state(pid):
    return open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()[0]


def compare(world, pid, *arguments, key=None, host=None):
    """Check and real run: the same code and the same reasons. Gives the check's JSON."""
    before = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    check = world.trace("--check", "--json", pid, *arguments, key=key, host=host)
    said = check.json()
    expect(check.code == said["exit"], f"its exit code isn't the one that it speaks of: {check}")
    expect(said["possible"] == (check.code == 0), f"{said}")
    expect(state(pid) in "SR", "the check left the process stopped")
    after = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    expect(before == after, f"the check changed descriptors: {before} {after}")
    text = world.trace("--check", pid, *arguments, key=key, host=host)
    expect(text.code == check.code and not text.err, f"text and JSON differ: {text} {check}")
    words = " ".join(text.out.split())
    for reason in said["reasons"]:
        for part in (reason["what"], reason["advice"]):
            expect(" ".join(part.split()) in words, f"{part!r} isn't in {text}")
    for line in text.out.splitlines():
        expect(len(line) <= 100 or " " not in line.strip(), f"a line of {len(line)} columns: {line}")
    real = world.trace("--json", pid, *arguments, key=key, host=host)
    expect(real.code == check.code, f"the real run ends otherwise:\n{check}\n{real}")
    if real.code != 0:
        done = real.json()
        expect(done["error"] == said["error"], f"another word: {said} {done}")
        # What can't be carried is refused without asking the destination, which the check has asked all the same.
        more = [reason for reason in said["reasons"] if reason not in done["reasons"]]
        expect(len(more) + len(done["reasons"]) == len(said["reasons"]), f"other reasons:\n{said}\n{done}")
        expect(not more or real.code == 4 and all(" there" in one["what"] for one in more), f"more reasons: {more}")
    return said


def all_kinds(world):
    """What can't be carried, and what can, each alone: into a file."""
    found = kinds()
    expect(len(found) > 10, f"holds.cc speaks of {found} only")
    refused = 0
    for kind in found:
        target = hold(world, kind)
        said = compare(world, target.real_pid, "-o", world.folder / f"{kind}.rfork")
        refused += not said["possible"]
        if said["possible"]:
            numbers = [fd for fate in ("carried", "reopened", "relayed", "changed") for item in said[fate]
                       for fd in item["descriptors"]]
            held = sorted(int(fd) for fd in os.listdir(f"/proc/{target.real_pid}/fd"))
            expect(sorted(numbers) == held, f"{kind}: of {held} it speaks of {sorted(numbers)}")
        # The copy made from the image would compete with the original: only the original verifies itself.
        world.go(target.folder)
        target.wait().expect(0, out="ok\n")
    expect(0 < refused < len(found), f"{refused} of {len(found)} are refused")


def to_host(world):
    """The same to a daemon, by copy and by move, which only what is refused can be asked for twice."""
    daemon = harness.Daemon(world, None)
    for kind in kinds():
        target = hold(world, kind)
        said = compare(world, target.real_pid, daemon.address, key=daemon.key)
        if not said["possible"]:
            moved = world.trace("--check", "--json", "--move", target.real_pid, daemon.address, key=daemon.key)
            if moved.code != 0:
                compare(world, target.real_pid, "--move", daemon.address, key=daemon.key)
        world.go(target.folder)
        if target.running():
            target.wait()


def several(world):
    """All reasons at once, the destination's too; and none of them for what an option gives up."""
    daemon = harness.Daemon(world, None, "--allow-user", "nobody-at-all")
    target = hold(world, "pipe", "inotify")
    numbers = {kind: (target.folder / kind).read_text() for kind in ("pipe", "inotify")}
    check = world.trace("--check", "--json", target.real_pid, daemon.address, key=daemon.key)
    check.expect(CANNOT_CARRY)
    reasons = " ".join(reason["what"] for reason in check.json()["reasons"])
    expect(f"descriptor {numbers['pipe']} " in reasons, f"{check}")
    if world.root:
        expect("runs nothing as root" in reasons, f"no word of the destination's: {check}")
    drops = [word for number in numbers.values() for word in ("--drop-fd", number)]
    check = world.trace("--check", "--json", *drops, target.real_pid, daemon.address, key=daemon.key)
    check.expect(REFUSED if world.root else 0)
    lost = " ".join(item["what"] for item in check.json()["lost"])
    expect("pipe:[" in lost, f"what is given up isn't said: {check}")
    compare(world, target.real_pid, *drops, daemon.address, key=daemon.key)
    world.go(target.folder)
    target.wait().expect(0, out="ok\n")


def destination(world):
    """What the other side says: nobody there, another key, files with other contents."""
    target = world.target("file_regular")
    expect(compare(world, target.real_pid, "127.0.0.1:1")["exit"] == LOST, "nobody is there")
    daemon = harness.Daemon(world, None)
    other = world.folder / "other-key"
    world.run([world.program("rforkd"), "--make-key", other]).expect(0)
    expect(compare(world, target.real_pid, daemon.address, key=other)["exit"] == REFUSED, "the key is wrong")
    expect(daemon.children() == [], "a check left a child")
    expect(compare(world, target.real_pid, daemon.address, key=daemon.key)["possible"], "it could be copied")
    expect(len(daemon.children()) == 1, "one real run makes one child")
    compare(world, target.real_pid, "--spool", world.folder, daemon.address, key=daemon.key)
    world.go()
    target.wait().expect(0, out="ok\n")


def other_files(world):
    """A file that is another one there: refused; with --overwrite-files not, and the check leaves it as it is."""
    here, there = world.two_hosts()
    program = "import os, sys, time\nfile = open(sys.argv[1], 'r+')\nprint('ready', flush=True)\n" \
              "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
    private = world.folder / "private"
    private.mkdir()
    (private / "notes").write_text("of host-a\n")
    if world.drop:
        for path in (private, private / "notes"):
            os.chown(path, harness.ORDINARY, harness.ORDINARY)
    there.call("mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", str(private))
    there.call("sh", "-c", f"echo of host-b, and longer >{private}/notes; chmod 666 {private}/notes")
    daemon = harness.Daemon(world, there)
    process = world.start(["/usr/bin/python3", "-c", program, private / "notes", world.folder / "go"], host=here)
    process.line()
    said = compare(world, process.pid, daemon.address, key=daemon.key, host=here)
    expect(said["exit"] == REFUSED and "--overwrite-files" in said["reasons"][0]["advice"], f"{said}")
    check = world.trace("--check", "--json", "--overwrite-files", process.pid, daemon.address, key=daemon.key, host=here)
    fetched = " ".join(item["what"] for item in check.expect(0).json()["fetched"])
    expect(str(private / "notes") in fetched, f"{check}")
    found = world.run(["cat", private / "notes"], host=there).out
    expect("host-b" in found, f"the check replaced the file: {found}")
    listed = world.run(["ls", private], host=there).out.split()
    expect(listed == ["notes"], f"the check left files: {listed}")
    # What only the loader finds, with the whole image before it.
    (private / "here").write_text("on host-a only\n")
    if world.drop:
        os.chown(private / "here", harness.ORDINARY, harness.ORDINARY)
    other = world.start(["/usr/bin/python3", "-c", program, private / "here", world.folder / "go"], host=here)
    other.line()
    said = compare(world, other.pid, "--thin", daemon.address, key=daemon.key, host=here)
    expect(said["exit"] == REFUSED and "private/here" in said["reasons"][0]["what"], f"{said}")
    world.go()
    process.wait().expect(0)
    other.wait().expect(0)


def untraceable(world):
    ended = world.start(["true"])
    ended.wait()
    expect(compare_pid(world, ended.pid)["exit"] == CANNOT_TRACE, "there is no such process")
    target = world.target("steady")
    tids = [tid for tid in os.listdir(f"/proc/{target.real_pid}/task") if int(tid) != target.real_pid]
    expect(compare_pid(world, tids[0])["exit"] == CANNOT_TRACE, "that is a thread")
    for arguments in (["--attach", "127.0.0.1:1"], ["-o", "x", "127.0.0.1:1"]):
        world.trace("--check", target.real_pid, *arguments).expect(USAGE)
    said = compare(world, target.real_pid, "-o", "/no/such/folder/image")
    expect(not said["possible"], f"{said}")
    world.go()
    target.wait().expect(0, out="ok\n")


def compare_pid(world, pid):
    check = world.trace("--check", "--json", pid, "-o", world.folder / "image")
    real = world.trace("--json", pid, "-o", world.folder / "image")
    said, done = check.json(), real.json()
    expect(check.code == real.code and said["reasons"] == done["reasons"], f"{check}\n{real}")
    return said


def fates(world):
    """Each descriptor of a target under the right heading, with and without a destination."""
    target = world.target("file_events")
    nowhere = world.trace("--check", target.real_pid).expect(0)
    for word in ("carried", "eventfd", "epoll", "changed", "stopped for"):
        expect(word in nowhere.out, f"no {word}: {nowhere}")
    expect(nowhere.out.startswith(f"file_events ({target.real_pid}) can be copied\n"), f"{nowhere}")
    daemon = harness.Daemon(world, None)
    moved = world.trace("--check", "--move", "--json", target.real_pid, daemon.address, key=daemon.key)
    said = moved.expect(0).json()
    expect(any(1 in item["descriptors"] for item in said["relayed"]), f"its output isn't relayed: {said}")
    expect(any("ghost" in item["what"] for item in said["relayed"]), f"no word of the ghost: {said}")
    alone = world.trace("--check", "--move", "--no-ghost", "--json", target.real_pid, daemon.address, key=daemon.key)
    expect(any(1 in item["descriptors"] for item in alone.expect(0).json()["changed"]), f"{alone}")
    mapped = [file for item in said["reopened"] for file in item.get("files", [])]
    expect(any("libc.so" in file for file in mapped), f"libc isn't among the mapped files: {mapped}")
    expect(daemon.children() == [], "a check left a child")
    world.go()
    target.wait().expect(0, out="ok\n")


CASES = {"kinds": all_kinds, "host": to_host, "several": several, "destination": destination,
         "files": other_files, "untraceable": untraceable, "fates": fates}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

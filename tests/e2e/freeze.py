#!/usr/bin/python3
"""rfork_freeze() (tests/targets/freezer.c): freeze.py CASE root|user

twice      0 in the original, 1 in each process that the file makes, as often as it is run, on another host too
wrong      no file, no such directory, a directory: -1, errno, a sentence, and nothing is left
bystander  another thread's wait() and a SIGCHLD handler don't meet what stands between
full       a disk that fills: no half file under its name or another
"""

import errno
import os
import re
import subprocess
import sys

import harness
from harness import expect


class Freezer:
    def __init__(self, world, host=None):
        self.world, self.host = world, host
        self.environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace")}

    def run(self, *arguments, **options):
        return self.world.run([self.world.build / "targets/freezer", *arguments], host=self.host, env=self.environment,
                              **options)

    def fails(self, file, numbers, *texts):
        before = harness.processes()
        said = self.run(file)
        found = re.fullmatch(r"failed errno=(\d+) sigchld=0 left=0: (.+)\n", said.out)
        expect(said.code == 0 and found, f"no failure: {said}")
        names = [errno.errorcode[number] for number in numbers]
        expect(int(found[1]) in numbers, f"{names} was expected: {said}")
        for text in texts:
            expect(text in found[2], f"{text!r} was expected: {said}")
        harness.nothing_left(before, f"freeze {file}")


def twice(world):
    here, there = world.two_hosts()
    before = harness.processes()
    file = world.folder / "frozen"
    said = Freezer(world, here).run(file).expect(0, err="")
    expect(re.fullmatch(r"original \d+ sigchld=0 left=0\n", said.out), f"{said}")
    expect(os.access(file, os.X_OK), "the file isn't a program")
    size = file.stat().st_size
    for host in (here, there, here):
        said = world.run([file], host=host)
        expect(said.code == 43 and re.fullmatch(r"restored \d+ sigchld=0 left=0\n", said.out), f"{said}")
    expect(file.stat().st_size == size, "the file has changed")
    harness.nothing_left(before, "after all")
    # The same file again: replaced, and it runs.
    Freezer(world, here).run(file).expect(0, err="", out="original")
    world.run([file], host=here).expect(43, out="restored")


def wrong(world):
    freezer = Freezer(world)
    freezer.fails("", [errno.EINVAL], "no file")
    freezer.fails(world.folder / "missing/file", [errno.ENOENT], "missing/file", "No such file")
    freezer.fails(world.folder, [errno.EISDIR, errno.EINVAL, errno.EEXIST], str(world.folder))
    if not world.root:
        freezer.fails("/usr/frozen", [errno.EACCES, errno.EROFS], "/usr/frozen")
    freezer.environment["RFORK_TRACE"] = "/nowhere/rfork-trace"
    freezer.fails(world.folder / "frozen", [errno.ENOSYS], "/nowhere/rfork-trace")
    expect(not list(world.folder.glob("*frozen*")), "a file is left")


def bystander(world):
    said = world.run([world.build / "targets/bystander", "freeze", world.folder / "frozen"],
                     env=Freezer(world).environment)
    expect(said.code == 0 and said.out == "errno=0 strangers=0 sigchld=0 \n", f"{said}")


def full(world):
    if not world.root:
        raise harness.Skip("only root mounts a disk that is small")
    disk = world.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        Freezer(world).fails(disk / "frozen", [errno.ENOSPC], "No space left", str(disk))
        expect(os.listdir(disk) == [], f"left on the disk: {os.listdir(disk)}")
        old = disk / "old"
        old.write_text("what was there before")
        Freezer(world).fails(old, [errno.ENOSPC], "No space left", str(disk))
        expect(old.read_text() == "what was there before", "a file that was there is gone")
        expect(os.listdir(disk) == ["old"], f"left on the disk: {os.listdir(disk)}")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


CASES = {"twice": twice, "wrong": wrong, "bystander": bystander, "full": full}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")

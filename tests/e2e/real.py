#!/usr/bin/python3
"""A program of Debian's moves or is copied between two hosts in the middle of its work, and its output is compared
with that of a run that stayed: real.py PROGRAM root|user copy|move
"""

import random
import shutil
import signal
import subprocess
import sys

import harness
from harness import expect, wait_until

PROGRAMS = harness.pathlib.Path(__file__).resolve().parent / "programs"
PYTHON = "/usr/bin/python3"


class Work:
    """What is run in a folder. Its stdout is a pipe unless it is a file there, called `stdout`."""

    stdin = stdout = None       # names of files in the folder
    outputs = ["output"]        # files that are compared
    options = []                # of rfork-trace
    needs = []

    def prepare(self, folder):
        pass

    def argv(self, world, folder):
        raise NotImplementedError

    def middle(self, process, folder):
        """Returns when it is in the middle of its work."""
        while process.line() != self.mark:
            expect(process.running(), f"it ended early: {process.early!r}")

    def result(self, folder):
        return [(folder / name).read_bytes() for name in self.outputs]

    def said(self, result):
        """What a run wrote to stdout, without what may differ."""
        return result.out


class PythonLoop(Work):
    mark = "step 60000"

    def argv(self, world, folder):
        return [PYTHON, PROGRAMS / "loop.py", folder, 400000]


class PythonThreads(Work):
    mark = "step 4000"

    def argv(self, world, folder):
        return [PYTHON, PROGRAMS / "threads.py", folder, 60000]


class Perl(Work):
    mark = "step 60000"
    needs = ["perl"]

    def argv(self, world, folder):
        return ["perl", PROGRAMS / "words.pl", folder, 300000]


class Sqlite(Work):
    """A copy would write the same database twice: a transaction is moved only."""
    stdin, stdout, outputs = "script.sql", "stdout", ["stdout"]
    needs = ["sqlite3"]

    def prepare(self, folder):
        rows = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {0}) "
                "INSERT INTO t SELECT NULL, i * 7919 % 100003, hex(i * 31) FROM n;\n")
        (folder / "script.sql").write_text(
            "PRAGMA cache_size = 500;\nCREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT);\n"
            "CREATE INDEX by_a ON t (a);\nBEGIN;\n" + rows.format(1000) +
            f".system touch '{folder}/started'\n" + rows.format(150000) +
            "UPDATE t SET b = b || 'x' WHERE a % 3 = 0;\n"
            "COMMIT;\nSELECT count(*), sum(a), max(b) FROM t;\nPRAGMA integrity_check;\n")

    def argv(self, world, folder):
        return ["sqlite3", "-batch", folder / "base.db"]

    def middle(self, process, folder):
        wait_until(lambda: (folder / "started").exists() and
                   (folder / "base.db-journal").exists() and
                   (folder / "base.db").stat().st_size > 1 << 20, "sqlite3 is in its transaction")

    def result(self, folder):
        dump = subprocess.run(["sqlite3", str(folder / "base.db"), ".dump"], capture_output=True, check=True)
        return super().result(folder) + [dump.stdout]


class Gzip(Work):
    stdin, stdout, outputs = "input", "stdout", ["stdout"]
    command = ["gzip", "-9", "-n", "-c"]
    needs = ["gzip"]
    megabytes, after = 80, 200_000

    def prepare(self, folder):
        source = random.Random(7)
        words = [bytes(source.randrange(97, 123) for _ in range(source.randrange(2, 12)))
                 for _ in range(4000)]
        with open(folder / "input", "wb") as file:
            while file.tell() < self.megabytes << 20:
                file.write(b" ".join(source.choices(words, k=20000)) + b"\n")

    def argv(self, world, folder):
        return self.command

    def middle(self, process, folder):
        wait_until(lambda: (folder / "stdout").stat().st_size > self.after, "some of the output is written")
        expect(process.running(), "it ended early")


class Xz(Gzip):
    """xz keeps a pipe to itself for being interrupted, which is given up."""
    command = ["xz", "-1", "-T2", "--block-size=1MiB", "-c"]
    options = ["--drop-fd", "3", "--drop-fd", "4"]
    needs = ["xz"]
    megabytes, after = 48, 500_000


class Parallel(Work):
    """Sixteen threads under mutexes and condition variables with AVX state: tests/targets/parallel.cc."""
    outputs = ["result"]

    def argv(self, world, folder):
        return [world.build / "targets/parallel", folder, 12000]

    def middle(self, process, folder):
        line = process.line()
        if line.startswith("skip: "):
            raise harness.Skip(line[6:])
        wait_until(lambda: int((folder / "progress").read_text() or 0) > 800, "it has done some rounds")

    def said(self, result):
        return result.out.split("\n", 1)[-1] if result.out.startswith("ready ") else result.out


WORKS = {"python-loop": PythonLoop, "python-threads": PythonThreads, "perl": Perl, "sqlite3": Sqlite,
         "gzip": Gzip, "xz": Xz, "parallel": Parallel}


def start(world, work, folder, host):
    folder.mkdir()
    work.prepare(folder)
    if world.drop:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, harness.ORDINARY, harness.ORDINARY)
    files = {}
    if work.stdin:
        files["stdin"] = open(folder / work.stdin, "rb")
    if work.stdout:
        files["stdout"] = open(folder / work.stdout, "wb")
        if world.drop:
            shutil.chown(folder / work.stdout, harness.ORDINARY, harness.ORDINARY)
    process = world.start(work.argv(world, folder), host=host, **files)
    for file in files.values():
        file.close()
    return process


def migrate(world, name, way):
    work = WORKS[name]()
    for program in work.needs:
        if not shutil.which(program):
            raise harness.Skip(f"{program} isn't installed")
    here, there = world.two_hosts()
    plain, moved = world.folder / "plain", world.folder / "moved"
    reference = start(world, work, plain, here).wait(120).expect(0)
    daemon = harness.Daemon(world, there)
    process = start(world, work, moved, here)
    work.middle(process, moved)
    options = (["--move", "--no-ghost"] if way == "move" else []) + work.options
    world.trace(process.pid, daemon.address, *options, host=here, key=daemon.key).expect(0)
    child = daemon.child_id()
    original = process.wait(120)
    finished = daemon.finished(child).expect(0)
    if way == "move":
        expect(original.code == -signal.SIGKILL, f"the original should have been ended: {original}")
    else:
        original.expect(0)
        expect(work.said(original) == work.said(reference), f"the original said other things: {original}")
    expect(work.result(moved) == work.result(plain), "the output differs from that of a run that stayed")
    expect(work.stdout or finished.out, f"the child said nothing: {finished}")
    expect(work.said(reference).endswith(work.said(finished)),
           f"what the child said is no end of {reference.out!r}: {finished}")


if __name__ == "__main__":
    harness.main(migrate, sys.argv[1], sys.argv[3], user=sys.argv[2] == "user")

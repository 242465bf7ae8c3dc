#!/usr/bin/python3
"""Hosts that don't fit: hosts.py CASE root|user

This machine is one host, so it is the origin that is made another: an offer is altered on its way to rforkd, an
image is written anew with what another host would have said. What the destination lacks is named, one line each, with
what can be done; over a connection before the process is stopped.
"""

import os
import pathlib
import subprocess
import sys

import harness
from harness import BAD_IMAGE, REFUSED, expect
from offers import AlteringProxy

IGNORE = "; --ignore-cpu accepts the risk that the process uses it, or choose a like processor"
LACKS = {
    "feature": "the destination's processor lacks the extension avx1024f" + IGNORE,
    "component": "the destination doesn't keep XSAVE component 40, a later extension's state" + IGNORE,
    "machine": "the process is of a riscv64 host, the destination is x86_64; "
               "choose a destination of the same architecture",
    "pages": "the process has pages of 16384 bytes, the destination of 4096; "
             "choose a destination with the same page size",
    "huge": "the process has huge pages of 34359738368 bytes, for which there is no pool there; "
            "give the destination some in /sys/kernel/mm/hugepages",
    "ability": "the destination lacks the kernel ability 'telepathy'; choose a destination with a later kernel",
}
OF_CPU = ["feature", "component"]


class Sleeper:
    """A process that does nothing: whoever stops it makes it switch."""

    def __init__(self, world):
        self.process = world.start(["sleep", "1000"])
        self.pid = self.process.pid
        harness.wait_until(lambda: "nanosleep" in self.field("wchan"), "it sleeps")
        self.before = self.switches()

    def field(self, name):
        return pathlib.Path(f"/proc/{self.pid}/{name}").read_text(encoding="utf-8")

    def switches(self):
        return [line for line in self.field("status").splitlines() if "ctxt_switches" in line]

    def untouched(self):
        return self.switches() == self.before


def said_by(program, result):
    """The lines of a refusal, without the program's name."""
    lines = [line for line in result.err.splitlines() if line]
    expect(all(line.startswith(program + ": ") for line in lines), f"{result}")
    return [line[len(program) + 2:] for line in lines]


def alterations():
    def host(offer):
        return offer["needs"]["host"]

    return {
        "feature": lambda offer: host(offer)["cpu_features"].append("avx1024f"),
        "component": lambda offer: host(offer).update(xcr0=host(offer)["xcr0"] | 1 << 40),
        "machine": lambda offer: host(offer).update(architecture="riscv64"),
        "pages": lambda offer: host(offer).update(page_size=16384),
        "huge": lambda offer: offer["needs"]["abilities"].append("hugetlb:34359738368"),
        "ability": lambda offer: offer["needs"]["abilities"].append("telepathy"),
        "hint": lambda offer: host(offer)["cpu_hints"].append("faster_still"),
    }


def altered(world, daemon, *names):
    def alter(offer):
        for name in names:
            alterations()[name](offer)
    return AlteringProxy(daemon.address, alter, harness.ORDINARY if world.user else 0)


def offered(world):
    """rforkd judges the offer: nothing has been stopped."""
    daemon = harness.Daemon(world, None, key=None)
    sleeper = Sleeper(world)
    together = ["feature", "component", "pages", "ability", "huge"]
    for names in [[name] for name in LACKS] + [together]:
        proxy = altered(world, daemon, *names)
        wanted = sorted(LACKS[name] for name in names)
        for options in ([], ["--move"], ["--check", "--json"]):
            said = world.trace(*options, sleeper.pid, proxy.address).expect(REFUSED)
            if "--check" in options:
                reasons = [f"{reason['what']}; {reason['advice']}" for reason in said.json()["reasons"]]
                expect(sorted(reasons) == wanted, f"{wanted} was expected of {said}")
                continue
            expect(sorted(said_by("rfork-trace", said)) == wanted, f"{wanted} was expected of {said}")
            expect(sleeper.untouched(), f"{names}: the process was stopped: {sleeper.before} {sleeper.switches()}")
        # A check goes on to find all reasons, and stops it for a moment.
        sleeper.before = sleeper.switches()
        expect(proxy.seen == 3, f"{proxy.seen} offers were altered")
    world.trace(sleeper.pid, daemon.address).expect(0)
    expect(not sleeper.untouched(), "a copy leaves no trace in the process: this test sees nothing")


def finish(world, target, daemon):
    world.go()
    target.wait().expect(0, out="ok\n")
    daemon.finished(daemon.child_id()).expect(0, out="ok\n")


def accepted(world):
    """--ignore-cpu takes what is of the processor, and nothing else."""
    daemon = harness.Daemon(world, None, key=None)
    target = world.target("steady")
    for name in LACKS:
        if name in OF_CPU:
            continue
        said = world.trace("--ignore-cpu", target.real_pid, altered(world, daemon, name, *OF_CPU).address)
        expect(said.code == REFUSED and said_by("rfork-trace", said) == [LACKS[name]], f"{said}")
    proxy = altered(world, daemon, *OF_CPU)
    world.trace("--ignore-cpu", target.real_pid, proxy.address).expect(0)
    expect(proxy.seen == 1, "no offer was altered")
    finish(world, target, daemon)


def hints(world):
    """What only hints at speed never refuses."""
    daemon = harness.Daemon(world, None, key=None)
    target = world.target("steady")
    proxy = altered(world, daemon, "hint")
    world.trace(target.real_pid, proxy.address).expect(0)
    expect(proxy.seen == 1, "no offer was altered")
    finish(world, target, daemon)


RUNS_A_MEMFD = """
import mmap, os, sys, time
fd = os.memfd_create("code")
os.ftruncate(fd, 4096)
code = mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
os.close(fd)
print("ready", flush=True)
time.sleep(1000)
"""
NO_MEMFD_CODE = ("the process runs code from a memfd, which the destination forbids; "
                 "set vm.memfd_noexec to 0 there")


def forbids(world):
    """A kernel ability that a host really lacks: vm.memfd_noexec belongs to a pid namespace."""
    setting = pathlib.Path("/proc/sys/vm/memfd_noexec")
    if not setting.exists():
        raise harness.Skip("this kernel has no vm.memfd_noexec")
    here, there = world.two_hosts()
    program = world.start([sys.executable, "-c", RUNS_A_MEMFD], host=here)
    program.line()
    image = world.folder / "image.rfork"
    world.trace(program.pid, "-o", image, host=here).expect(0)
    subprocess.run([*there.enter, "sh", "-c", f"echo 2 > {setting}"], check=True)
    daemon = harness.Daemon(world, there)

    def switches():
        text = pathlib.Path(f"/proc/{program.pid}/status").read_text(encoding="utf-8")
        return [line for line in text.splitlines() if "ctxt_switches" in line]

    before = switches()
    for options in ([], ["--move"]):
        said = world.trace(*options, program.pid, daemon.address, host=here, key=daemon.key)
        expect(said.code == REFUSED and said_by("rfork-trace", said) == [NO_MEMFD_CODE], f"{said}")
    expect(before == switches(), "the process was stopped")
    said = world.run([world.program("rfork-run"), image], host=there)
    expect(said.code == REFUSED and said_by("rfork-run", said) == [NO_MEMFD_CODE], f"{said}")


def image_of(world, *target):
    target = world.target(*target)
    image = world.folder / "image.rfork"
    world.trace(target.real_pid, "-o", image).expect(0)
    world.go()
    target.wait().expect(0, out="ok\n")
    os.remove(world.folder / "go")
    return image


def alter(world, image, *changes):
    """What it is in an image that another host or a later rfork wrote."""
    other = image.with_suffix(".altered")
    subprocess.run([harness.BUILD / "tests/alter_image", image, other, *map(str, changes)], check=True)
    return other


IN_AN_IMAGE = {"feature": "avx1024f", "component": 40, "machine": "riscv64", "pages": 16384, "huge": 1 << 35}


def image(world):
    whole = image_of(world, "beacon")
    together = ["feature", "component", "pages", "huge"]
    for names in [[name] for name in IN_AN_IMAGE] + [together]:
        changes = [part for name in names for part in (name, IN_AN_IMAGE[name])]
        other = alter(world, whole, *changes)
        said = world.run([world.program("rfork-run"), other])
        expect(said.code == REFUSED and said.out == "", f"{said}")
        wanted = sorted(LACKS[name] for name in names)
        expect(sorted(said_by("rfork-run", said)) == wanted, f"{wanted} was expected of {said}")
        piped = subprocess.run([*world.drop, world.program("rfork-run"), "-"], input=other.read_bytes(),
                               capture_output=True, check=False)
        expect(piped.returncode == REFUSED and piped.stdout == b"", f"through a pipe: {piped}")
        world.run([world.program("rfork-dump"), "--verify", other]).expect(0)
    rest = [part for name in IN_AN_IMAGE if name not in OF_CPU for part in (name, IN_AN_IMAGE[name])]
    said = world.run([world.program("rfork-run"), "--ignore-cpu", alter(world, whole, *rest)])
    expect(said.code == REFUSED and "--ignore-cpu" not in said.err, f"{said}")


def run_to_end(world, image, *options):
    copy = world.start([world.program("rfork-run"), "-v", *options, image])
    harness.wait_until(lambda: not copy.running() or "alive" in copy.line(), "the copy runs")
    world.go()
    return copy.wait().expect(0, out="ok\n")


def image_accepted(world):
    whole = image_of(world, "beacon")
    changes = ("feature", "avx1024f", "hint", "faster_still")
    run_to_end(world, alter(world, whole, *changes, "component", 40), "--ignore-cpu")
    os.remove(world.folder / "go")
    run_to_end(world, alter(world, whole, "hint", "faster_still"))
    os.remove(world.folder / "go")
    # Registers that are in use and that this processor hasn't: the loss is accepted, and said.
    said = run_to_end(world, alter(world, whole, "live", 40), "--ignore-cpu")
    expect("XSAVE component 40, a later extension's state, of thread " in said.err, f"{said}")


def later(world):
    """Images of a later rfork: refused by all that read them, by name, unless what is new needn't be understood."""
    whole = image_of(world, "beacon")
    advice = "; use the rfork that wrote it, or a later one"
    cases = {
        ("version", 2): "the image has format version 2 (byte 14), this program reads version 1" + advice,
        ("must", 0x52460fff): "which must be understood and is unknown here" + advice,
        ("rename", "drop_attributes", "drop_attributez"):
            ": drop_attributez is unknown here" + advice,
        ("rename", "io_priority", "io_prioritz"):
            ": io_prioritz is unknown here" + advice,
    }
    for changes, text in cases.items():
        other = alter(world, whole, *changes)
        run = world.run([world.program("rfork-run"), other]).refused(BAD_IMAGE, text, str(other))
        expect(run.out == "", f"something ran: {run}")
        for options in ([], ["--verify"]):
            world.run([world.program("rfork-dump"), *options, other]).refused(BAD_IMAGE, text)
        dumped = world.run([world.program("rfork-dump"), "--json", other]).expect(BAD_IMAGE).json()
        reasons = [f"{reason['what']}; {reason['advice']}" for reason in dumped["reasons"]]
        expect(len(reasons) == 1 and text in reasons[0], f"{text!r} was expected of {dumped}")
        diff = world.run([world.program("rfork-dump"), "--diff", whole, other])
        expect(diff.code == BAD_IMAGE and text in diff.err, f"{diff}")
    other = alter(world, whole, "may", 0x52460fff)
    world.run([world.program("rfork-dump"), "--verify", other]).expect(0)
    run_to_end(world, other)


CASES = {"offered": offered, "accepted": accepted, "hints": hints, "forbids": forbids, "image": image,
         "image-accepted": image_accepted, "later": later}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=len(sys.argv) > 2 and sys.argv[2] == "user")

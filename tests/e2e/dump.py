#!/usr/bin/python3
"""rfork-dump over images of the targets: every field in words, and what changed between two: dump.py CASE"""

import json
import shutil
import sys

import harness
from harness import BAD_IMAGE, USAGE, expect

# What the images of these targets must be shown with, beside every field that is set.
WORDS = {
    "file_events": ["O_NONBLOCK", "FD_CLOEXEC", "EPOLLIN", "EPOLLONESHOT", "CLOCK_BOOTTIME", "CLOCK_REALTIME",
                    "TFD_TIMER_ABSTIME", "signal_mask SIGUSR1", "semaphore yes", "SHUT_WR", "AT_PAGESZ"],
    "file_fanotify": ["FAN_REPORT_FID", "FAN_REPORT_NAME", "FAN_MARK_EVICTABLE", "FAN_MARK_IGNORE", "FAN_CREATE", "FAN_ONDIR"],
    "signal_actions": ["SA_RESTART", "SA_SIGINFO", "SIG_IGN", "SA_ONSTACK"],
    "signal_pending": ["SI_QUEUE", "SI_TKILL", "SIGRTMIN"],
    "mem_advice": ["MADV_DONTFORK", "MADV_WIPEONFORK", "MADV_DONTDUMP"],
    "mem_memfd": ["F_SEAL_SEAL", "memfd"],
    "mem_stack": ["MAP_GROWSDOWN"],
    "process_attributes": ["RLIMIT_NOFILE", "umask"],
    "process_timers": ["ITIMER_REAL", "ITIMER_VIRTUAL"],
    "thread_altstack": ["SS_"],
}
# Shown as lines of their own form, or said of the whole image.
IN_TABLES = {"mappings", "descriptors", "runs", "needs", "image"}


def image_of(world, name):
    folder = world.folder / name
    folder.mkdir()
    target = world.target(name, folder=folder)
    image = folder / "image.rfork"
    world.trace(target.real_pid, "-o", image).expect(0)
    world.go(folder)
    target.wait().expect(0, out="ok\n")
    return image


def is_set(value):
    if isinstance(value, dict):
        return any(is_set(member) for name, member in value.items()
                   if name != "signal" and not name.endswith("_words"))
    if isinstance(value, list):
        return any(is_set(element) for element in value)
    return bool(value)


def set_fields(value, above=()):
    """Names of all members that say something."""
    if isinstance(value, list):
        for element in value:
            yield from set_fields(element, above)
    elif isinstance(value, dict) and is_set(value):
        for name, member in value.items():
            if name.endswith("_words") or name in IN_TABLES and not above:
                continue
            if name in IN_TABLES or not is_set(member):
                continue
            if name == "relay" and value["kind"] != "relay":
                continue    # means nothing
            if name == "options":    # by their own names
                yield from (option["name"] for option in member if set(option["value"]) - {"0"})
                continue
            if isinstance(member, dict) or isinstance(member, list) and member and isinstance(member[0], dict):
                yield from set_fields(member, (*above, name))
            else:
                yield name


def words(world):
    for name, wanted in WORDS.items():
        image = image_of(world, name)
        everything = world.run([world.program("rfork-dump"), "--all", image]).expect(0, out=wanted).out
        parsed = json.loads(world.run([world.program("rfork-dump"), "--json", image]).expect(0).out)
        shown = set(everything.replace(",", " ").split())
        for field in set(set_fields(parsed)):
            expect(field in shown, f"{name}: the field {field} isn't shown in {everything}")
        for line in everything.splitlines():
            expect(len(line) < 400, f"a line of {len(line)}: {line}")


def in_json(world):
    """The number and, beside it, its words."""
    parsed = json.loads(world.run([world.program("rfork-dump"), "--json", image_of(world, "file_events")]).expect(0).out)
    epoll = [one for one in parsed["descriptions"] if one["kind"] == "epoll"][0]
    watch = [one for one in epoll["watches"] if "EPOLLONESHOT" in one["events_words"]][0]
    expect(watch["events"] & 1 << 30, f"EPOLLONESHOT isn't in {watch}")
    actions = parsed["processes"][0]["actions"]
    expect([one["signal_words"] for one in actions[:2]] == ["SIGHUP", "SIGINT"], f"{actions[:2]}")
    expect(isinstance(parsed["processes"][0]["threads"][0]["registers"]["rip"], int), "rip is no number")


PROGRAM = r"""
import ctypes, fcntl, mmap, os, signal, sys, threading
notes = open(sys.argv[1], "r+b", buffering=0)
gone = open(sys.argv[1], "rb")
memory = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 8 * 4096)
for page in range(64): memory[page * 4096] = 1
shared[0] = 1
sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
step = os.open(sys.argv[2], os.O_RDONLY)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
while not os.read(step, 1):
    signal.sigtimedwait([], 0.005)
    os.lseek(step, 0, 0)
for page in range(7): memory[page * 4096 + 100] = 2
shared[4096] = 3
fcntl.fcntl(sealed, 1033, 1)    # F_ADD_SEALS, F_SEAL_SEAL
os.umask(0o077)
os.lseek(notes.fileno(), 5, 0)
os.eventfd(4)
gone.close()
fcntl.fcntl(notes.fileno(), fcntl.F_SETFL, os.O_APPEND)
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
late = mmap.mmap(-1, 4096 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
threading.Thread(target=signal.pause, daemon=True).start()
print("changed", flush=True)
signal.sigwait([signal.SIGALRM])
"""


def changed(world):
    notes, step = world.folder / "notes", world.folder / "step"
    notes.write_text("0123456789")
    step.touch()
    process = world.start(["/usr/bin/python3", "-c", PROGRAM, notes, step])
    address = int(process.line())
    before, after = world.folder / "before.rfork", world.folder / "after.rfork"
    world.trace(process.pid, "-o", before).expect(0)
    step.write_text("x")
    process.line()
    world.trace(process.pid, "-o", after).expect(0)
    process.kill()
    said = world.run([world.program("rfork-dump"), "--diff", before, after])
    expect(said.code == 1, f"they differ: {said}")
    lines = said.out.splitlines()

    def line_with(*texts):
        found = [line for line in lines if all(text in line for text in texts)]
        expect(found, f"no line with {texts}: {said}")
        return found[0]

    line_with("process umask: ", "→ 077")
    line_with("descriptor", "offset: 0 → 5")
    line_with("descriptor", "flags", "→ O_RDWR|O_APPEND")
    line_with("descriptor", "went", str(notes))
    line_with("descriptor", "came", "eventfd")
    line_with("actions SIGUSR2", "handler: SIG_DFL → SIG_IGN")
    line_with(f"thread {process.pid} signal_mask: none → SIGALRM")
    line_with("thread", "came: python3")
    expect("7 pages" in line_with(f"{address:#x}-"), "seven pages were written")
    expect("page" not in line_with("memfd", "seals: none → F_SEAL_SEAL"), "no page was written")
    line_with("shared_anonymous", "1 page (4.0 KiB) changed")
    line_with("came: PROT_READ MAP_PRIVATE")
    parsed = world.run([world.program("rfork-dump"), "--diff", "--json", before, after]).json()
    expect(not parsed["same"] and parsed["pages"] > 7, f"{parsed['pages']} pages")
    found = [one for one in parsed["mappings"] if one["before"] and one["before"]["range"][0] == address]
    expect([one["pages"] for one in found] == [7], f"{found}")


def same(world):
    image = image_of(world, "steady")
    other = world.folder / "other.rfork"
    shutil.copy(image, other)
    said = world.run([world.program("rfork-dump"), "--diff", image, other]).expect(0)
    expect(said.out == "", f"it speaks of differences: {said}")
    expect(world.run([world.program("rfork-dump"), "--diff", "--json", image, other]).expect(0).json()["same"], "not the same")
    # One byte of the last page.
    data = bytearray(image.read_bytes())
    offset = len(data) - 4096 * 2
    data[offset] ^= 1
    other.write_bytes(data)
    said = world.run([world.program("rfork-dump"), "--diff", image, other])
    expect(said.code == 1 and "1 page" in said.out, f"{said}")


def errors(world):
    image = image_of(world, "steady")
    dump = world.program("rfork-dump")
    world.run([dump, "--diff", image]).refused(USAGE, "--diff")
    world.run([dump, image, image]).refused(USAGE, "--diff")
    world.run([dump, "--diff", image, "-"]).refused(USAGE, "pipe")
    world.run([dump, "--diff", image, world.folder / "none"]).refused(USAGE, "none")
    world.run([dump, "--diff", image, "/bin/true"]).refused(BAD_IMAGE, "/bin/true")
    cut = world.folder / "cut.rfork"
    cut.write_bytes(image.read_bytes()[:-40960])
    world.run([dump, "--diff", image, cut]).refused(BAD_IMAGE, "cut")


CASES = {"words": words, "json": in_json, "changed": changed, "same": same, "errors": errors}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]])

#!/usr/bin/python3
"""What isn't an image, or isn't one any more, is refused before anything of it runs: bad_image.py CASE"""

import shutil
import subprocess
import sys

import harness
from harness import BAD_IMAGE, expect

CORE_HEADER = (b"\x7fELF\x02\x01\x01" + bytes(9) + (4).to_bytes(2, "little") + (62).to_bytes(2, "little") +
               (1).to_bytes(4, "little") + bytes(8) + (64).to_bytes(8, "little") + bytes(12) +
               (64).to_bytes(2, "little") + (56).to_bytes(2, "little") + bytes(8))


def image_of(world):
    target = world.target("beacon")
    image = world.folder / "image.rfork"
    world.trace(target.real_pid, "-o", image).expect(0)
    target.kill()
    return image


def refused(world, image, *texts):
    """By all that read images, with one line; nothing of it ran."""
    said = world.run([world.program("rfork-run"), image])
    said.refused(BAD_IMAGE, *texts)
    expect(said.out == "", f"something ran: {said}")
    world.run([world.program("rfork-dump"), "--verify", image]).refused(BAD_IMAGE, *texts)


def not_images(world):
    folder = world.folder / "a folder"
    folder.mkdir(mode=0o755)
    contents = {"empty": b"", "text": b"hello, world\n" * 1000, "short": b"\x7fELF",
                "core header": CORE_HEADER + bytes(10000), "zeros": bytes(100000),
                "program": open("/bin/true", "rb").read()}
    for name, data in contents.items():
        path = world.folder / name
        path.write_bytes(data)
        refused(world, path, name)
    for path in (folder, world.folder / "missing", "/dev/null"):
        said = world.run([world.program("rfork-run"), path])
        expect(said.code in (BAD_IMAGE, harness.INTERNAL, harness.USAGE), f"{said}")
        said.refused(said.code, str(path))
    expect(world.run([world.program("rfork-run"), folder]).code == BAD_IMAGE, "a directory is no image")
    said = world.run([world.program("rfork-run"), "-"])  # stdin is /dev/null
    said.refused(BAD_IMAGE, "empty")


def core(world):
    """A core file as gdb writes it."""
    if not shutil.which("gcore"):
        raise harness.Skip("gcore isn't installed")
    target = world.target("beacon")
    subprocess.run(["gcore", "-o", str(world.folder / "core"), str(target.real_pid)], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    refused(world, world.folder / f"core.{target.real_pid}", "core")


def places(size, count):
    """The first and last bytes each, and `count` spread over the rest."""
    return sorted({*range(0, 200), *range(200, 4096, 61), *range(0, size, max(1, size // count)),
                   *range(max(0, size - 64), size)} & set(range(size)))


def cut(world):
    whole = image_of(world).read_bytes()
    path = world.folder / "cut.rfork"
    for at in places(len(whole), 150):
        path.write_bytes(whole[:at])
        said = world.run([world.program("rfork-run"), path])
        said.refused(BAD_IMAGE)
        expect(said.out == "", f"something ran of an image cut at {at}: {said}")
        if at:
            expect("byte" in said.err, f"no offset: {said}")
    # From a pipe the end comes later.
    for at in places(len(whole), 10)[::20]:
        piped = subprocess.run([world.program("rfork-run"), "-"], input=whole[:at], capture_output=True,
                               check=False)
        expect(piped.returncode == BAD_IMAGE and piped.stdout == b"", f"cut at {at}: {piped}")
    path.write_bytes(whole + b"more")
    said = world.run([world.program("rfork-dump"), "--verify", path])
    expect(said.code in (0, BAD_IMAGE), f"bytes behind the end: {said}")


def altered(world):
    whole = image_of(world).read_bytes()
    path = world.folder / "altered.rfork"
    for number, at in enumerate(places(len(whole), 250)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << number % 8)]) + whole[at + 1:])
        said = world.run([world.program("rfork-run"), path])
        expect(said.code == BAD_IMAGE, f"byte {at} of {len(whole)} was altered: {said}")
        said.refused(BAD_IMAGE)
        expect(said.out == "", f"something ran of an image altered at {at}: {said}")


CASES = {"not-images": not_images, "core": core, "cut": cut, "altered": altered}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]])

#!/usr/bin/python3
"""An image that can't be written: no half file under the asked name, what was there stays, the process goes on."""

import os
import subprocess

import harness
from harness import expect


def full(world):
    target = world.target("steady")
    if os.geteuid() == 0:
        # The mount is this test's alone: it has a mount namespace.
        small = world.folder / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "rfork-test", str(small)], check=True)
        image = small / "image.rfork"
        said = world.trace(target.real_pid, "-o", image)
        said.refused(said.code, str(image), "No space left on device")
        expect(said.code in range(1, 9), f"{said}")
        expect(os.listdir(small) == [], f"left behind: {os.listdir(small)}")
        image.write_text("precious")
        world.trace(target.real_pid, "--move", "-o", image).refused(said.code, "No space left on device")
        expect(image.read_text() == "precious", "what was there is gone")
        expect(os.listdir(small) == ["image.rfork"], f"left behind: {os.listdir(small)}")
        subprocess.run(["umount", str(small)], check=True)
    for place, text in ((world.folder / "nowhere/image", "No such file"), (world.folder, "directory"),
                        ("/proc/image", str("/proc"))):
        said = world.trace(target.real_pid, "-o", place)
        expect(said.code in range(1, 9), f"{said}")
        said.refused(said.code, text)
    limited = ["prlimit", "--fsize=65536", world.program("rfork-trace")]
    said = world.run([*limited, target.real_pid, "--move", "-o", world.folder / "image"])
    said.refused(said.code, "File too large")
    with open("/dev/full", "wb") as device:
        said = world.run([world.program("rfork-trace"), target.real_pid, "-o", "-"], stdout=device)
        expect(said.code in range(1, 9), f"{said}")
        said.refused(said.code, "No space left on device")
    read, write = os.pipe()
    os.close(read)
    said = world.run([world.program("rfork-trace"), target.real_pid, "-o", "-"], stdout=write)
    os.close(write)
    expect(said.code in range(1, 9), f"a closed pipe: {said}")
    said.refused(said.code)
    expect(target.running(), "the process ended")
    world.go()
    target.wait().expect(0, out="ok\n")
    left = [name for name in os.listdir(world.folder) if "image" in name or name.startswith(".")]
    expect(left == [], f"left behind: {left}")


if __name__ == "__main__":
    harness.main(full)

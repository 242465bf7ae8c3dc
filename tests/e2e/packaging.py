#!/usr/bin/python3
"""What is installed can be used, and the man pages say what --help says: packaging.py pkg-config|find-package|man"""

import os
import re
import shutil
import subprocess
import sys

import harness
from harness import expect

HEADER = harness.REPOSITORY / "include/rfork/rfork.h"
MANUAL = harness.REPOSITORY / "man"

# Calls nothing: that is judged elsewhere. It must compile without a warning, link and start.
PROGRAM = """
#include <rfork/rfork.h>

int main(int argc, char** argv) {
  if (argc > 1) return rfork(argv[1]) < 0 ? rfork_error()[0] : 0;
  return 0;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(uses_rfork LANGUAGES C CXX)
find_package(rfork 0.1 REQUIRED)
add_executable(in_c program.c)
target_link_libraries(in_c PRIVATE rfork::rfork)
add_executable(in_cxx program.cc)
target_link_libraries(in_cxx PRIVATE rfork::rfork)
"""


def call(*argv, **options):
    asked = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False, **options)
    return harness.Result(argv, asked.returncode, asked.stdout, asked.stderr).expect(0).out


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise harness.Skip(f"{program} isn't installed")


def installed(world):
    need("cmake")
    if not HEADER.exists():
        raise harness.Skip(f"{HEADER} isn't there")
    prefix = world.folder / "prefix"
    call("cmake", "--install", harness.BUILD, "--prefix", prefix)
    for name in ("rfork-trace.1", "rfork.3", "rfork_with.3", "rforkd.8"):
        page = prefix / f"share/man/man{name[-1]}" / name
        expect(page.exists() and page.stat().st_size > 1000, f"{page} isn't there")
    for name in ("rfork-trace", "rfork-run", "rfork-dump", "rforkctl", "rforkd"):
        call(prefix / "bin" / name, "--version")
    (world.folder / "program.c").write_text(PROGRAM)
    (world.folder / "program.cc").write_text(PROGRAM)
    return prefix


def pkg_config(world):
    need("cc", "c++", "pkg-config")
    prefix = installed(world)
    environment = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "share/pkgconfig"))
    flags = call("pkg-config", "--cflags", "--libs", "rfork", env=environment).split()
    expect(call("pkg-config", "--modversion", "rfork", env=environment).strip(), "no version")
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    for compiler, standard, source in (("cc", "c99", "program.c"), ("c++", "c++17", "program.cc")):
        program = world.folder / compiler
        call(compiler, f"-std={standard}", *strict, world.folder / source, *flags, "-o", program)
        call(program)


def find_package(world):
    prefix = installed(world)
    (world.folder / "CMakeLists.txt").write_text(PROJECT)
    build = world.folder / "their-build"
    call("cmake", "-S", world.folder, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    call("cmake", "--build", build)
    for name in ("in_c", "in_cxx"):
        call(build / name)


def man(world):
    pages = {"rfork-trace": 1, "rfork-run": 1, "rfork-dump": 1, "rforkctl": 1, "rforkd": 8}
    for name, section in pages.items():
        page = (MANUAL / f"{name}.{section}").read_text()
        helps = [call(world.program(name), "--help")]
        if name == "rforkctl":
            helps += [call(world.program(name), command, "--help") for command in ("logs", "events", "monitor", "kill", "wait")]
        offered = set(re.findall(r"(?m)^ +(?:-\w,)?--([a-z-]+)", "\n".join(helps)))
        described = set(re.findall(r"(?m)^\.It Fl (?:\w , )?-([a-z-]+)", page))
        expect(offered and "help" in offered, f"no options in {helps}")
        expect(offered == described, f"{name}: --help has {offered - described} that the page lacks; the page has "
                                     f"{described - offered} that the program lacks")
    if shutil.which("groff"):
        for page in sorted(MANUAL.glob("*.[138]")):
            said = subprocess.run(["groff", "-mandoc", "-ww", "-z", page], capture_output=True, text=True, check=False)
            if "can't open" in said.stderr or "can't find" in said.stderr:
                raise harness.Skip(f"groff is not whole here: {said.stderr}")
            expect(said.returncode == 0 and not said.stderr, f"{page}: {said.stderr}")


CASES = {"pkg-config": pkg_config, "find-package": find_package, "man": man}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]])

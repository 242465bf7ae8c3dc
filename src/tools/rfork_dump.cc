// rfork-dump: shows what is in an image.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/io.h"
#include "base/output_file.h"
#include "base/text.h"
#include "image/read_image.h"
#include "tools/dump_diff.h"
#include "tools/dump_json.h"
#include "tools/dump_summary.h"
#include "tools/program.h"

namespace {

using namespace rfork;

struct Arguments {
  std::string image;
  std::string other;
  std::string core;
  tools::SummaryOptions summary;
  bool json = false;
  bool verify = false;
  bool diff = false;
};

constexpr const char* kExamples = R"(Examples:
  rfork-dump job.rfork                     who, from where, threads, descriptors
  rfork-dump --mappings job.rfork          and every mapping
  rfork-dump --verify job.rfork            reads all of it: is it whole and unaltered?
  rfork-dump --core core job               the plain core file in an image that runs by itself
  rfork-dump --json job.rfork | jq '.processes[0].threads[].registers.rip'
  rfork-trace 4242 -o - | rfork-dump -     from a pipe
  rfork-dump --diff before.rfork after.rfork
Exit codes: 0 done, 1 a call failed, 2 usage, 8 the image is cut, altered, later, or none;
  with --diff 0 the same, 1 different, 2 usage or a call failed.)";

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("IMAGE", arguments.image, "The image (-: standard input)")->required();
  app.add_option("OTHER", arguments.other, "With --diff: what it is compared with");
  app.add_flag("--diff", arguments.diff, "Say what changed from IMAGE to OTHER, two files");
  app.add_flag("-m,--mappings", arguments.summary.mappings, "Show every mapping");
  app.add_flag("-a,--all", arguments.summary.all,
               "Show mappings and all fields, in the words of the man pages");
  app.add_flag("--json", arguments.json, "Everything, as one line of JSON");
  app.add_flag("--verify", arguments.verify, "Read the page data too and check its digests");
  app.add_option("--core", arguments.core,
                 "Write the plain core file to OUT (-: standard output), for gdb")
      ->type_name("OUT");
  app.set_version_flag("--version", "rfork-dump " RFORK_VERSION);
  app.footer(kExamples);
}

void check_diff(const Arguments& arguments) {
  if (arguments.diff == arguments.other.empty()) {
    throw Refusal(Failure::usage, "--diff compares two images", "rfork-dump --diff IMAGE OTHER");
  }
  if (!arguments.diff) return;
  if (arguments.image == "-" || arguments.other == "-") {
    throw Refusal(Failure::usage, "--diff reads both images here and there, so not from a pipe",
                  "write it into a file");
  }
  if (!arguments.core.empty() || arguments.verify || arguments.summary.mappings ||
      arguments.summary.all) {
    throw Refusal(Failure::usage, "--diff shows differences only", "leave the other options out");
  }
}

void check(const Arguments& arguments) {
  check_diff(arguments);
  if (arguments.core != "-") return;
  if (arguments.json || arguments.verify || arguments.summary.mappings || arguments.summary.all) {
    throw Refusal(Failure::usage, "--core - takes standard output for the core file",
                  "name a file, or leave the other options out");
  }
  if (::isatty(STDOUT_FILENO) == 1) {
    throw Refusal(Failure::usage, "a core file can't be written to a terminal",
                  "pipe it on, or name a file");
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw_errno("write", "standard output");
}

/// As diff(1): 0 the same, 1 different. A call that failed is no difference.
int diff(const Arguments& arguments) {
  try {
    const UniqueFd before_fd = open_or_throw(arguments.image, O_RDONLY | O_NOCTTY);
    const UniqueFd after_fd = open_or_throw(arguments.other, O_RDONLY | O_NOCTTY);
    const image::ImageReader before(before_fd.get(), arguments.image);
    const image::ImageReader after(after_fd.get(), arguments.other);
    const auto file = [](const UniqueFd& fd, const image::ImageReader& reader) {
      return tools::ImageFile{fd.get(), reader.front_size() + reader.metadata().data_offset,
                              reader.metadata()};
    };
    const tools::ImageFile old = file(before_fd, before), fresh = file(after_fd, after);
    const tools::ImageDiff found = tools::compare_images(old, fresh);
    if (arguments.json) {
      tools::print_diff_json(found, stdout);
    } else {
      tools::print_diff(found, old, fresh, stdout);
    }
    flush_output();
    return found.same() ? 0 : 1;
  } catch (const std::exception& error) {
    const int code = report_failure("rfork-dump", error, arguments.json);
    return code == static_cast<int>(Failure::internal) ? static_cast<int>(Failure::usage) : code;
  }
}

void show(const Arguments& arguments, const image::ImageReader& reader) {
  const bool asked = arguments.summary.mappings || arguments.summary.all;
  const bool whole = arguments.verify || !arguments.core.empty();
  if (arguments.json) {
    tools::print_json(reader.metadata(), whole, stdout);
  } else if (whole) {
    const uint64_t front = reader.front_size();
    fmt::print("{}: the image is whole, {} bytes{}\n", arguments.image,
               reader.metadata().total_size,
               front == 0 ? "" : fmt::format(" behind a loader of {}", front));
  }
  if (!arguments.json && (!whole || asked)) {
    tools::print_summary(reader.metadata(), arguments.summary, stdout);
  }
  flush_output();
}

void dump(const Arguments& arguments) {
  const bool piped = arguments.image == "-";
  const UniqueFd file = piped ? UniqueFd() : open_or_throw(arguments.image, O_RDONLY | O_NOCTTY);
  std::optional<OutputFile> core;
  if (!arguments.core.empty()) core.emplace(arguments.core, 0600);
  image::ImageReader::Copy copy;
  if (core) copy = [&](std::span<const std::byte> bytes) { core->write(bytes); };
  image::ImageReader reader(piped ? STDIN_FILENO : file.get(),
                            piped ? "standard input" : arguments.image, copy);
  if (arguments.verify || core) reader.finish();
  if (core) core->finish();
  if (arguments.core != "-") show(arguments, reader);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Shows what is in an image of a process.");
  add_options(app, arguments);
  return run_program("rfork-dump", app, argc, argv, arguments.json, [&] {
    check(arguments);
    if (arguments.diff) return diff(arguments);
    dump(arguments);
    return 0;
  });
}

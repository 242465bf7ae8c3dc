// rfork-dump: shows what is in an image.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "image/read_image.h"
#include "tools/dump_json.h"
#include "tools/dump_summary.h"
#include "tools/program.h"

namespace {

using namespace rfork;

struct Arguments {
  std::string image;
  tools::SummaryOptions summary;
  bool json = false;
  bool verify = false;
};

constexpr const char* kExamples = R"(Examples:
  rfork-dump job.rfork                     who, from where, threads, descriptors
  rfork-dump --mappings job.rfork          and every mapping
  rfork-dump --verify job.rfork            reads all of it: is it whole and unaltered?
  rfork-dump --json job.rfork | jq '.processes[0].threads[].registers.rip'
  rfork-trace 4242 -o - | rfork-dump -     from a pipe
Exit codes: 0 done, 1 a call failed, 2 usage, 8 the image is cut, altered, later, or none.)";

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("IMAGE", arguments.image, "The image (-: standard input)")->required();
  app.add_flag("-m,--mappings", arguments.summary.mappings, "Show every mapping");
  app.add_flag("-a,--all", arguments.summary.all,
               "Show mappings, signal handlers, limits, files and objects");
  app.add_flag("--json", arguments.json, "Everything, as one line of JSON");
  app.add_flag("--verify", arguments.verify, "Read the page data too and check its digests");
  app.set_version_flag("--version", "rfork-dump " RFORK_VERSION);
  app.footer(kExamples);
}

void dump(const Arguments& arguments) {
  const bool piped = arguments.image == "-";
  const UniqueFd file = piped ? UniqueFd() : open_or_throw(arguments.image, O_RDONLY | O_NOCTTY);
  const int fd = piped ? STDIN_FILENO : file.get();
  image::ImageReader reader(fd, piped ? "standard input" : arguments.image);
  if (arguments.verify) reader.finish();
  if (arguments.json) {
    tools::print_json(reader.metadata(), arguments.verify, stdout);
  } else if (arguments.verify) {
    fmt::print("{}: the image is whole, {} bytes\n", arguments.image, reader.metadata().total_size);
  }
  const bool asked = arguments.summary.mappings || arguments.summary.all;
  if (!arguments.json && (!arguments.verify || asked)) {
    tools::print_summary(reader.metadata(), arguments.summary, stdout);
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw_errno("write", "standard output");
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Shows what is in an image of a process.");
  add_options(app, arguments);
  return run_program("rfork-dump", app, argc, argv, arguments.json, [&] {
    dump(arguments);
    return 0;
  });
}

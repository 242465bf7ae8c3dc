#include "base/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>

#include "base/outcome.h"

namespace rfork {

namespace {

std::string join_lines(const std::vector<Reason>& reasons) {
  std::string text;
  for (const Reason& reason : reasons) {
    if (!text.empty()) text += '\n';
    text += reason.line();
  }
  return text;
}

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

std::string_view name_of(Failure failure) {
  switch (failure) {
    case Failure::internal:
      return "internal";
    case Failure::usage:
      return "usage";
    case Failure::cannot_trace:
      return "cannot_trace";
    case Failure::cannot_carry:
      return "cannot_carry";
    case Failure::destination_refused:
      return "destination_refused";
    case Failure::connection_lost:
      return "connection_lost";
    case Failure::in_doubt:
      return "in_doubt";
    case Failure::bad_image:
      return "bad_image";
    case Failure::interrupted:
      return "interrupted";
  }
  return "unknown";
}

Error::Error(std::string_view operation, int errno_value, std::string_view subject, Failure failure)
    : std::system_error(errno_value, std::generic_category()),
      failure_(failure),
      text_(subject.empty() ? fmt::format("{}: {}", operation, code().message())
                            : fmt::format("{} {}: {}", operation, subject, code().message())) {}

void throw_errno(std::string_view operation, std::string_view subject) {
  throw Error(operation, errno, subject);
}

std::string Reason::line() const {
  return advice.empty() ? what : what + "; " + advice;
}

Refusal::Refusal(Failure failure, std::vector<Reason> reasons)
    : failure_(failure), reasons_(std::move(reasons)), text_(join_lines(reasons_)) {}

Refusal::Refusal(Failure failure, std::string what, std::string advice)
    : Refusal(failure, {Reason{std::move(what), std::move(advice)}}) {}

ProcessGone::ProcessGone(int pid) : pid_(pid), text_(fmt::format("process {} has ended", pid)) {}

Outcome outcome_of(const std::exception& error) {
  Outcome outcome{Failure::internal, {{error.what(), ""}}};
  if (const auto* refusal = dynamic_cast<const Refusal*>(&error)) {
    outcome = {refusal->failure(), refusal->reasons()};
  } else if (const auto* failed = dynamic_cast<const Error*>(&error)) {
    outcome.failure = failed->failure();
  } else if (dynamic_cast<const ProcessGone*>(&error) != nullptr) {
    outcome.failure = Failure::cannot_trace;
  }
  return outcome;
}

int report_failure(std::string_view program, const std::exception& error, bool json) {
  const auto [failure, reasons] = outcome_of(error);
  if (json) {
    std::string list;
    for (const Reason& reason : reasons) {
      list += fmt::format("{}{{\"what\":{},\"advice\":{}}}", list.empty() ? "" : ",",
                          json_string(reason.what), json_string(reason.advice));
    }
    std::puts(fmt::format("{{\"error\":\"{}\",\"exit\":{},\"reasons\":[{}]}}", name_of(failure),
                          static_cast<int>(failure), list)
                  .c_str());
  } else {
    for (const Reason& reason : reasons) {
      std::fputs(fmt::format("{}: {}\n", program, reason.line()).c_str(), stderr);
    }
  }
  return static_cast<int>(failure);
}

}  // namespace rfork

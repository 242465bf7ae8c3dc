#include "tools/check_output.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "tools/check_items.h"

namespace rfork {

namespace {

using nlohmann::json;
using session::CheckReport;

constexpr size_t kColumns = 100;
constexpr size_t kLabel = 12;  // "  carried   "

/// Characters on the screen: of UTF-8, not its later bytes.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) >> 6) != 2; }));
}

/// `text` behind `head`, and below where it would leave the screen. A word that is longer than the
/// screen stays whole: a path is to be copied.
void add_wrapped(std::string& out, const std::string& head, const std::string& text) {
  const std::string indent(width_of(head), ' ');
  std::string line = head;
  bool empty = true;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!empty && width_of(line) + 1 + width_of(word) > kColumns) {
      out += line + '\n';
      line = indent;
      empty = true;
    }
    line += (empty ? "" : " ") + word;
    empty = false;
    at = end + 1;
  }
  out += line + '\n';
}

std::string label_of(const char* word) {
  return fmt::format("  {:<{}}", word, kLabel - 2);
}

void add_reasons(std::string& out, const Outcome& refusal) {
  const char* label = "refused";
  for (const Reason& reason : refusal.reasons) {
    add_wrapped(out, label_of(label), visible(reason.what));
    if (!reason.advice.empty()) {
      add_wrapped(out, std::string(kLabel + 2, ' '), visible(reason.advice));
    }
    label = "";
  }
}

/// The files that have to travel, if they are few: they may be wanted there anyway.
std::string names_in(const CheckItem& item) {
  constexpr size_t kFew = 4;
  if (item.fate != Fate::fetched || item.files.empty() || item.files.size() > kFew) return "";
  return fmt::format(": {}", fmt::join(item.files, ", "));
}

void add_items(std::string& out, const std::vector<CheckItem>& items) {
  size_t widest = 0;
  std::vector<std::string> numbers;
  for (const CheckItem& item : items) {
    numbers.push_back(fmt::format("{}", fmt::join(item.descriptors, " ")));
    if (numbers.back().size() <= 20) widest = std::max(widest, numbers.back().size());
  }
  const char* last = "";
  for (size_t i = 0; i < items.size(); ++i) {
    const char* const word = name_of(items[i].fate);
    std::string head = label_of(word == std::string_view(last) ? "" : word);
    last = word;
    if (!numbers[i].empty()) head += fmt::format("{:<{}}  ", numbers[i], widest);
    add_wrapped(out, head, items[i].what + names_in(items[i]));
  }
}

std::string verdict(const CheckReport& report, const CheckQuestion& question) {
  std::string who = std::to_string(report.pid);
  if (report.known) {
    who = fmt::format("{} ({})", visible(report.snapshot.processes[0].name), report.pid);
  }
  return fmt::format("{} {} be {}{}{}", who, report.refusal ? "can't" : "can",
                     question.move ? "moved" : "copied",
                     question.to.empty()  ? ""
                     : question.into_file ? " into "
                                          : " to ",
                     visible(question.to));
}

}  // namespace

std::string check_text(const CheckReport& report, const CheckQuestion& question) {
  std::string out = verdict(report, question) + '\n';
  if (report.refusal) add_reasons(out, *report.refusal);
  add_items(out, items_of(report, question.into_file));
  if (report.stopped) {
    add_wrapped(
        out, label_of("cost"),
        fmt::format("{} {}; it was stopped for {} to be looked at", human_bytes(report.image_bytes),
                    question.into_file ? "in the file" : "to travel",
                    human_duration_ns(report.paused_ns)));
  }
  return out;
}

json check_json(const CheckReport& report, const CheckQuestion& question) {
  json reasons = json::array();
  if (report.refusal) {
    for (const Reason& reason : report.refusal->reasons) {
      reasons.push_back({{"what", reason.what}, {"advice", reason.advice}});
    }
  }
  json out = {{"pid", report.pid},
              {"to", question.to},
              {"moved", question.move},
              {"possible", !report.refusal},
              {"exit", exit_code(report)},
              {"error", report.refusal ? json(name_of(report.refusal->failure)) : json(nullptr)},
              {"reasons", std::move(reasons)}};
  if (report.known) out["name"] = report.snapshot.processes[0].name;
  for (const Fate fate :
       {Fate::carried, Fate::reopened, Fate::fetched, Fate::relayed, Fate::changed, Fate::lost}) {
    out[name_of(fate)] = json::array();
  }
  for (const CheckItem& item : items_of(report, question.into_file)) {
    json entry = {{"descriptors", item.descriptors}, {"what", item.what}};
    if (!item.files.empty()) entry["files"] = item.files;
    out[name_of(item.fate)].push_back(std::move(entry));
  }
  out["paused_ns"] = report.stopped ? json(report.paused_ns) : json(nullptr);
  out["image_bytes"] = report.stopped ? json(report.image_bytes) : json(nullptr);
  return out;
}

int exit_code(const CheckReport& report) {
  return report.refusal ? static_cast<int>(report.refusal->failure) : 0;
}

}  // namespace rfork

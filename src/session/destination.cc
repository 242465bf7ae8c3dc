#include "session/destination.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "net/link.h"
#include "session/messages.h"
#include "session/open_link.h"
#include "session/reading.h"

namespace rfork::session {

namespace {

using net::FrameType;
using net::Wait;
using std::chrono::milliseconds;

constexpr milliseconds kSignOfLife{5'000};  ///< between two of them while the image is spooled
constexpr milliseconds kLastWords{
    2'000};  ///< for the reasons of a destination that stopped reading

}  // namespace

net::Link open_link(const Endpoint& endpoint) {
  net::Link link(endpoint.address, {endpoint.deadlines.connect, "the connection"},
                 endpoint.interrupted);
  const bool ssh = endpoint.address.way == net::Address::Way::ssh;
  // ssh has shown who is at either end, and what passes is secret: a key would add nothing.
  const net::Key* const key = endpoint.key && !ssh ? &*endpoint.key : nullptr;
  link.handshake(
      net::Role::client, key,
      {ssh ? endpoint.deadlines.ssh : endpoint.deadlines.handshake, "rforkd's greeting"});
  return link;
}

struct Destination::State {
  explicit State(Endpoint where)
      : endpoint(std::move(where)), link(open_link(endpoint)), move_id(make_move_id()) {}

  Endpoint endpoint;
  net::Link link;
  std::string move_id;
  uint64_t image_bytes = 0;
  std::chrono::steady_clock::time_point last_word = std::chrono::steady_clock::now();
  bool over = false;  ///< refused, aborted or running: nothing more to say

  void write(FrameType type, std::span<const std::byte> body, std::string_view what);
  net::Frame expect(std::initializer_list<FrameType> types, milliseconds timeout,
                    std::string_view what);
  [[noreturn]] void hear_refusal();
};

/// The destination spoke out of turn: that is why it doesn't take more.
void Destination::State::hear_refusal() {
  over = true;
  const Wait wait{kLastWords, "the destination's reasons"};
  throw_unexpected(link, link.read(wait), "nothing");
}

void Destination::State::write(FrameType type, std::span<const std::byte> body,
                               std::string_view what) {
  if (link.input_waiting()) hear_refusal();
  try {
    link.write(type, body, {endpoint.deadlines.progress, what});
  } catch (const Refusal& refusal) {
    over = true;
    if (refusal.failure() != Failure::connection_lost) throw;
    // A destination that gave up says why before it closes.
    try {
      hear_refusal();
    } catch (const Refusal& better) {
      if (better.failure() == Failure::destination_refused) throw;
    }
    throw;
  }
}

net::Frame Destination::State::expect(std::initializer_list<FrameType> types, milliseconds timeout,
                                      std::string_view what) {
  try {
    return read_expected(link, types, {timeout, what});
  } catch (const Refusal& refusal) {
    over = refusal.failure() != Failure::interrupted;  // else ABORT is to be said
    throw;
  } catch (...) {
    over = true;
    throw;
  }
}

Destination::Destination(Endpoint endpoint)
    : state_(std::make_unique<State>(std::move(endpoint))) {}

Destination::~Destination() {
  abort();
}

const std::string& Destination::move_id() const {
  return state_->move_id;
}
std::string Destination::name() const {
  return state_->endpoint.address.text();
}
uint64_t Destination::wire_bytes() const {
  return state_->link.wire_bytes();
}

net::Frame Destination::ask(FrameType question, const Offer& offer, FrameType expected) {
  const Bytes body = encode(OfferMessage{state_->move_id, offer});
  if (body.size() > net::kMaxOfferBody) {
    throw Refusal(Failure::cannot_carry, "the process maps more files than an offer can name");
  }
  state_->write(question, body, "the offer to be taken");
  return state_->expect({expected}, state_->endpoint.deadlines.answer, "the answer to the offer");
}

Answer Destination::offer(const Offer& offer) {
  Answer answer = decode<Answer>(ask(FrameType::offer, offer, FrameType::answer).body);
  std::ranges::transform(answer.warnings, answer.warnings.begin(), visible);
  return answer;
}

namespace {

Judgement judgement_in(const net::Frame& frame) {
  auto judgement = decode<Judgement>(frame.body);
  std::ranges::transform(judgement.warnings, judgement.warnings.begin(), visible);
  for (Reason& reason : judgement.reasons) {
    reason = {visible(reason.what), visible(reason.advice)};
  }
  return judgement;
}

}  // namespace

Judgement Destination::check(const Offer& offer) {
  Judgement judgement = judgement_in(ask(FrameType::check, offer, FrameType::judgement));
  state_->over = !judgement.goes_on;
  return judgement;
}

Judgement Destination::judge_image() {
  state_->write(FrameType::end, encode(EndMessage{state_->image_bytes}), "the image to be taken");
  const net::Frame frame = state_->expect({FrameType::judgement}, state_->endpoint.deadlines.ready,
                                          "a judgement of the image");
  state_->over = true;
  return judgement_in(frame);
}

void Destination::send(std::span<const std::byte> image_bytes) {
  while (!image_bytes.empty()) {
    const auto piece = image_bytes.first(std::min(image_bytes.size(), net::kMaxDataBody));
    state_->write(FrameType::data, piece, "the image to be taken");
    state_->image_bytes += piece.size();
    image_bytes = image_bytes.subspan(piece.size());
  }
}

void Destination::spooled(uint64_t size) {
  state_->image_bytes += size;
  if (state_->link.input_waiting()) state_->hear_refusal();
  const auto now = std::chrono::steady_clock::now();
  if (now - state_->last_word < kSignOfLife) return;
  state_->last_word = now;
  state_->write(FrameType::waiting, {}, "a sign of life to be taken");
}

Ready Destination::finish_and_wait_ready() {
  state_->write(FrameType::end, encode(EndMessage{state_->image_bytes}), "the image to be taken");
  net::Frame frame;
  do {
    frame = state_->expect({FrameType::ready, FrameType::waiting}, state_->endpoint.deadlines.ready,
                           "the child to stand ready");
  } while (frame.type == FrameType::waiting);
  Ready ready = decode<Ready>(frame.body);
  std::ranges::transform(ready.warnings, ready.warnings.begin(), visible);
  return ready;
}

Running Destination::go() {
  state_->write(FrameType::go, {}, "GO to be taken");
  const net::Frame frame = state_->expect({FrameType::running}, state_->endpoint.deadlines.running,
                                          "word that the child runs");
  state_->over = true;
  return decode<Running>(frame.body);
}

net::Link& Destination::link() {
  return state_->link;
}

void Destination::abort() noexcept {
  if (std::exchange(state_->over, true) || state_->link.output_broken()) return;
  try {
    state_->link.write(FrameType::abort, encode(AbortMessage{"the client gave up"}),
                       {kLastWords, "ABORT to be taken"});
  } catch (const std::exception&) {
    // Closing says the same.
  }
}

Resolution resolve(const Endpoint& endpoint, const std::string& move_id) {
  net::Link link = open_link(endpoint);
  link.write(FrameType::resolve, encode(MoveQuestion{move_id}),
             {endpoint.deadlines.progress, "the question to be taken"});
  const net::Frame frame = read_expected(link, {FrameType::resolution},
                                         {endpoint.deadlines.running, "what became of it"});
  Resolution resolution = decode<Resolution>(frame.body);
  resolution.description = visible(resolution.description);
  return resolution;
}

net::Link reach_agent(const Endpoint& endpoint, const std::string& move_id) {
  net::Link link = open_link(endpoint);
  link.write(FrameType::attend, encode(MoveQuestion{move_id}),
             {endpoint.deadlines.progress, "the question to be taken"});
  (void)read_expected(link, {FrameType::done}, {endpoint.deadlines.handshake, "the child's agent"});
  return link;
}

}  // namespace rfork::session

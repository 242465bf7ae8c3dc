// What a daemon does with what its workers say and with the processes that end: the table of
// children (children.h) joined to pidfds, logs and waiting questions. No event loop here: the
// daemon calls in, and answers leave through a function.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "session/channel.h"
#include "session/children.h"
#include "session/event_desk.h"
#include "session/log_store.h"
#include "session/move_records.h"

namespace rfork::session {

/// Where the init of a child's pid namespace tells that it stops, goes on and ends.
struct InitPipe {
  std::string child_id;
  UniqueFd reader;  ///< a duplicate
};

class Desk {
 public:
  /// Sends a packet to a worker, if it still lives. Never throws.
  using Send = EventDesk::Send;

  /// `records` for a desk that must be able to answer for moves of others, and they for its own;
  /// `publish` gets every event.
  Desk(LogStore logs, size_t max_ended, Send send, std::optional<MoveRecords> records = {},
       EventDesk::Publish publish = {});

  /// One packet of a worker's (but for `authenticated`). Never throws: what is wrong with it is
  /// answered.
  void handle(WorkerId worker, Packet packet);
  /// A worker was reaped. Whatever it had not let go is ended. Gives the child that it leaves if an
  /// init tells of that: then hear_init() must be called when there is something to read.
  std::optional<InitPipe> worker_gone(WorkerId worker);
  /// What wait(2) told of a process that is no worker: it stopped, went on or ended.
  void waited(pid_t pid, int wait_status, const ResourceUse& use = {});
  /// Reads what the init of a child's pid namespace tells. False when no more will come.
  bool hear_init(const std::string& id);

  const Children& children() const { return children_; }

 private:
  struct Waiting {
    WorkerId worker;
    std::string key;  ///< a child's id, or a move's
  };

  void dispatch(WorkerId worker, Packet& packet);
  void announce(WorkerId worker, const Packet& packet);
  void stand(WorkerId worker, Packet& packet);
  void take_end_pipe(WorkerId worker, Packet& packet);
  void grant(WorkerId worker);
  void let_go(WorkerId worker);
  void give_up(WorkerId worker);
  void attend(WorkerId worker);
  void take_change(const Packet& packet);
  void take_signal(const Packet& packet);
  void take_loss(const Packet& packet);
  void take_use(const Packet& packet);
  void events(WorkerId worker, const Packet& packet);
  void tell(const Child& child, EventKind kind);
  void tell_signal(const Child& child, int signal);
  void lose(Child& child, const std::string& reason);
  void change(Child& child, int wait_status);
  bool read_init(Child& child);
  void end_child(Child* child, const loader::ChildEnd& end);
  void resolve(WorkerId worker, const Packet& packet);
  void record(const std::string& move_id, const std::function<void(MoveRecords&)>& step);
  void list(WorkerId worker, const Packet& packet);
  void kill(WorkerId worker, const Packet& packet);
  void wait(WorkerId worker, const Packet& packet);
  void look(WorkerId worker, const Packet& packet);
  void remove(WorkerId worker, const Packet& packet);
  void give_log(WorkerId worker, const Packet& packet);

  void refuse(WorkerId worker, const std::exception& why);
  void send_info(WorkerId worker, PacketType type, const ChildInfo& info, int descriptor = -1);
  void answer_resolves(const std::string& move_id);
  void answer_waits(const Child& child);
  void forget_log(const Child& child);

  LogStore logs_;
  Children children_;
  Send send_;
  std::optional<MoveRecords> records_;
  EventDesk events_;
  std::vector<Waiting> resolves_;  ///< until a grant is through
  std::vector<Waiting> waits_;     ///< until a child ends
};

}  // namespace rfork::session

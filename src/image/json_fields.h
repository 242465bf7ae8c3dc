// The fields of every struct of model.h, listed once: to_json() and from_json() both walk these
// lists, so a field can't be written and not read.
//
// visit_fields(visit, value) calls visit(name, field) for each; `value` is const for writing.
// visit.later() is for a field that images of older programs lack: it then keeps its default.
#pragma once

#include <concepts>
#include <type_traits>

#include "image/host.h"
#include "image/model.h"

namespace rfork::image {

template <typename T, typename Struct>
concept Is = std::same_as<std::remove_const_t<T>, Struct>;

void visit_fields(auto& visit, Is<XstateComponent> auto& x) {
  visit("index", x.index);
  visit("offset", x.offset);
  visit("size", x.size);
}

void visit_fields(auto& visit, Is<Host> auto& x) {
  visit("name", x.name);
  visit("architecture", x.architecture);
  visit("kernel", x.kernel);
  visit("boot_id", x.boot_id);
  visit("page_size", x.page_size);
  visit("address_limit", x.address_limit);
  visit("cpu_features", x.cpu_features);
  visit("cpu_hints", x.cpu_hints);
  visit("xcr0", x.xcr0);
  visit("xstate", x.xstate);
  visit("abilities", x.abilities);
}

void visit_fields(auto& visit, Is<Needs> auto& x) {
  visit("host", x.host);
  visit("abilities", x.abilities);
}

void visit_fields(auto& visit, Is<File> auto& x) {
  visit("id", x.id);
  visit("path", x.path);
  visit("size", x.size);
  visit("mode", x.mode);
  visit("device", x.device);
  visit("inode", x.inode);
  visit("mtime_ns", x.mtime_ns);
  visit("btime_ns", x.btime_ns);
  visit("build_id", x.build_id);
  visit("digest", x.digest);
}

void visit_fields(auto& visit, Is<SysvSegment> auto& x) {
  visit("id", x.id);
  visit("key", x.key);
  visit("size", x.size);
  visit("mode", x.mode);
  visit("uid", x.uid);
  visit("gid", x.gid);
  visit("creator_uid", x.creator_uid);
  visit("creator_gid", x.creator_gid);
  visit("creator", x.creator);
  visit("changed_s", x.changed_s);
  visit("removed", x.removed);
  visit("locked", x.locked);
  visit("ipc_namespace", x.ipc_namespace);
}

void visit_fields(auto& visit, Is<Object> auto& x) {
  visit("id", x.id);
  visit("kind", x.kind);
  visit("name", x.name);
  visit("size", x.size);
  visit("mode", x.mode);
  visit("seals", x.seals);
  visit("huge_page_size", x.huge_page_size);
  visit("file", x.file);
  visit.later("segment", x.segment);
}

void visit_fields(auto& visit, Is<FileLock> auto& x) {
  visit("kind", x.kind);
  visit("exclusive", x.exclusive);
  visit("start", x.start);
  visit("size", x.size);
}

void visit_fields(auto& visit, Is<EpollWatch> auto& x) {
  visit("fd", x.fd);
  visit("events", x.events);
  visit("data", x.data);
}

void visit_fields(auto& visit, Is<FileTimer> auto& x) {
  visit("clock", x.clock);
  visit("flags", x.flags);
  visit("value_ns", x.value_ns);
  visit("interval_ns", x.interval_ns);
  visit("ticks", x.ticks);
}

void visit_fields(auto& visit, Is<InotifyWatch> auto& x) {
  visit("wd", x.wd);
  visit("mask", x.mask);
  visit("path", x.path);
  visit("inode", x.inode);
  visit("change_time_ns", x.change_time_ns);
  visit("object", x.object);
}

void visit_fields(auto& visit, Is<FanotifyMark> auto& x) {
  visit("flags", x.flags);
  visit("mask", x.mask);
  visit("ignored", x.ignored);
  visit("path", x.path);
  visit("inode", x.inode);
  visit("change_time_ns", x.change_time_ns);
  visit("object", x.object);
}

void visit_fields(auto& visit, Is<FanotifyGroup> auto& x) {
  visit("flags", x.flags);
  visit("event_flags", x.event_flags);
  visit("marks", x.marks);
}

void visit_fields(auto& visit, Is<SocketOption> auto& x) {
  visit("name", x.name);
  visit("value", x.value);
}

void visit_fields(auto& visit, Is<SocketMessage> auto& x) {
  visit("data", x.data);
  visit("from", x.from);
  visit("credentials", x.credentials);
  visit("descriptions", x.descriptions);
}

void visit_fields(auto& visit, Is<SocketMembership> auto& x) {
  visit("interface", x.interface);
  visit("group", x.group);
  visit("type", x.type);
  visit("exclude", x.exclude);
  visit("sources", x.sources);
}

void visit_fields(auto& visit, Is<TcpConnection> auto& x) {
  visit("send_start", x.send_start);
  visit("receive_start", x.receive_start);
  visit("segment_size", x.segment_size);
  visit("selective", x.selective);
  visit("timestamps", x.timestamps);
  visit("scaling", x.scaling);
  visit("send_scale", x.send_scale);
  visit("receive_scale", x.receive_scale);
  visit("timestamp", x.timestamp);
  visit("window_update", x.window_update);
  visit("send_window", x.send_window);
  visit("largest_window", x.largest_window);
  visit("receive_window", x.receive_window);
  visit("receive_update", x.receive_update);
  visit("sent", x.sent);
  visit("not_sent", x.not_sent);
  visit("received", x.received);
}

void visit_fields(auto& visit, Is<Socket> auto& x) {
  visit("family", x.family);
  visit("type", x.type);
  visit("protocol", x.protocol);
  visit("name", x.name);
  visit("peer", x.peer);
  visit("interface", x.interface);
  visit("listening", x.listening);
  visit("backlog", x.backlog);
  visit("pending", x.pending);
  visit("has_path", x.has_path);
  visit("mode", x.mode);
  visit("uid", x.uid);
  visit("gid", x.gid);
  visit("peer_gone", x.peer_gone);
  visit("error", x.error);
  visit("connected", x.connected);
  visit("options", x.options);
  visit("messages", x.messages);
  visit("memberships", x.memberships);
  visit("groups", x.groups);
  visit("filter", x.filter);
  visit("left", x.left);
  visit("cookie", x.cookie);
  visit.later("kept", x.kept);
  visit.later("tcp", x.tcp);
}

void visit_fields(auto& visit, Is<PseudoTerminal> auto& x) {
  visit("number", x.number);
  visit("master", x.master);
  visit("locked", x.locked);
  visit("packet_mode", x.packet_mode);
  visit("exclusive", x.exclusive);
  visit("controlling", x.controlling);
  visit("discipline", x.discipline);
}

void visit_fields(auto& visit, Is<Description> auto& x) {
  visit("id", x.id);
  visit("kind", x.kind);
  visit("path", x.path);
  visit("flags", x.flags);
  visit("offset", x.offset);
  visit("file", x.file);
  visit("object", x.object);
  visit.later("locks", x.locks);
  visit.later("relay", x.relay);
  visit.later("terminal_modes", x.terminal_modes);
  visit.later("window_size", x.window_size);
  visit.later("count", x.count);
  visit.later("semaphore", x.semaphore);
  visit.later("signal_mask", x.signal_mask);
  visit.later("timer", x.timer);
  visit.later("watches", x.watches);
  visit.later("other", x.other);
  visit.later("capacity", x.capacity);
  visit.later("queued", x.queued);
  visit.later("shut", x.shut);
  visit.later("owner_type", x.owner_type);
  visit.later("owner", x.owner);
  visit.later("owner_signal", x.owner_signal);
  visit.later("inotify", x.inotify);
  visit.later("mode", x.mode);
  visit.later("removed", x.removed);
  visit.later("socket", x.socket);
  visit.later("terminal", x.terminal);
  visit.later("fanotify", x.fanotify);
}

void visit_fields(auto& visit, Is<Descriptor> auto& x) {
  visit("fd", x.fd);
  visit("description", x.description);
  visit("close_on_exec", x.close_on_exec);
}

void visit_fields(auto& visit, Is<Mapping> auto& x) {
  visit("range", x.range);
  visit("protection", x.protection);
  visit("shared", x.shared);
  visit("grows_down", x.grows_down);
  visit("no_reserve", x.no_reserve);
  visit("huge_page_size", x.huge_page_size);
  visit("advice", x.advice);
  visit("kind", x.kind);
  visit("backing", x.backing);
  visit("offset", x.offset);
  visit("name", x.name);
  visit("may_write", x.may_write);
  visit.later("guards", x.guards);
  visit.later("protection_key", x.protection_key);
  visit.later("sealed", x.sealed);
}

void visit_fields(auto& visit, Is<AltStack> auto& x) {
  visit("address", x.address);
  visit("flags", x.flags);
  visit("size", x.size);
}

void visit_fields(auto& visit, Is<Rseq> auto& x) {
  visit("address", x.address);
  visit("size", x.size);
  visit("signature", x.signature);
  visit("flags", x.flags);
}

void visit_fields(auto& visit, Is<Scheduling> auto& x) {
  visit("policy", x.policy);
  visit("flags", x.flags);
  visit("priority", x.priority);
  visit("runtime_ns", x.runtime_ns);
  visit("deadline_ns", x.deadline_ns);
  visit("period_ns", x.period_ns);
}

void visit_fields(auto& visit, Is<MemoryPolicy> auto& x) {
  visit("mode", x.mode);
  visit("nodes", x.nodes);
}

void visit_fields(auto& visit, Is<RangePolicy> auto& x) {
  visit("range", x.range);
  visit("policy", x.policy);
}

void visit_fields(auto& visit, Is<ThreadSettings> auto& x) {
  visit("timer_slack_ns", x.timer_slack_ns);
  visit("parent_death_signal", x.parent_death_signal);
  visit("time_stamp_counter", x.time_stamp_counter);
  visit("store_bypass", x.store_bypass);
  visit("indirect_branch", x.indirect_branch);
  visit.later("memory_failure", x.memory_failure);
}

void visit_fields(auto& visit, Is<Credentials> auto& x) {
  visit("uid", x.uid);
  visit("euid", x.euid);
  visit("suid", x.suid);
  visit("fsuid", x.fsuid);
  visit("gid", x.gid);
  visit("egid", x.egid);
  visit("sgid", x.sgid);
  visit("fsgid", x.fsgid);
  visit("groups", x.groups);
  visit("user", x.user);
  visit("cap_inheritable", x.cap_inheritable);
  visit("cap_permitted", x.cap_permitted);
  visit("cap_effective", x.cap_effective);
  visit("cap_bounding", x.cap_bounding);
  visit("cap_ambient", x.cap_ambient);
  visit.later("securebits", x.securebits);
}

void visit_fields(auto& visit, Is<Thread> auto& x) {
  visit("tid", x.tid);
  visit("name", x.name);
  visit("registers", x.registers);
  visit("floating_point", x.floating_point);
  visit("xstate", x.xstate);
  visit("signal_mask", x.signal_mask);
  visit("alt_stack", x.alt_stack);
  visit("robust_list", x.robust_list);
  visit("robust_list_size", x.robust_list_size);
  visit("rseq", x.rseq);
  visit("clear_child_tid", x.clear_child_tid);
  visit("pending", x.pending);
  visit("nice", x.nice);
  visit.later("waits", x.waits);
  visit.later("scheduling", x.scheduling);
  visit.later("cpus", x.cpus);
  visit.later("io_priority", x.io_priority);
  visit.later("memory_policy", x.memory_policy);
  visit.later("settings", x.settings);
  visit.later("credentials", x.credentials);
  visit.later("no_new_privs", x.no_new_privs);
  visit.later("seccomp_mode", x.seccomp_mode);
  visit.later("seccomp_filters", x.seccomp_filters);
}

void visit_fields(auto& visit, Is<MemoryPatch> auto& x) {
  visit("address", x.address);
  visit("bytes", x.bytes);
}

void visit_fields(auto& visit, Is<SignalAction> auto& x) {
  visit("signal", x.signal);
  visit("handler", x.handler);
  visit("flags", x.flags);
  visit("restorer", x.restorer);
  visit("mask", x.mask);
}

void visit_fields(auto& visit, Is<IntervalTimer> auto& x) {
  visit("value_us", x.value_us);
  visit("interval_us", x.interval_us);
}

void visit_fields(auto& visit, Is<PosixTimer> auto& x) {
  visit("id", x.id);
  visit("clock", x.clock);
  visit("clock_thread", x.clock_thread);
  visit("notify", x.notify);
  visit("signal", x.signal);
  visit("value", x.value);
  visit("thread", x.thread);
  visit("value_ns", x.value_ns);
  visit("interval_ns", x.interval_ns);
  visit("overrun", x.overrun);
}

void visit_fields(auto& visit, Is<SeccompFilter> auto& x) {
  visit("program", x.program);
  visit("log", x.log);
}

void visit_fields(auto& visit, Is<ProcessSettings> auto& x) {
  visit("child_subreaper", x.child_subreaper);
  visit("no_huge_pages", x.no_huge_pages);
  visit("memory_deny_write_execute", x.memory_deny_write_execute);
  visit("merge_memory", x.merge_memory);
  visit("dump_filter", x.dump_filter);
  visit("membarrier", x.membarrier);
}

void visit_fields(auto& visit, Is<Limit> auto& x) {
  visit("soft", x.soft);
  visit("hard", x.hard);
}

void visit_fields(auto& visit, Is<MemoryLayout> auto& x) {
  visit("start_code", x.start_code);
  visit("end_code", x.end_code);
  visit("start_data", x.start_data);
  visit("end_data", x.end_data);
  visit("start_brk", x.start_brk);
  visit("brk", x.brk);
  visit("start_stack", x.start_stack);
  visit("arg_start", x.arg_start);
  visit("arg_end", x.arg_end);
  visit("env_start", x.env_start);
  visit("env_end", x.env_end);
}

/// All of a process but its long lists.
void visit_head(auto& visit, Is<Process> auto& x) {
  visit("pid", x.pid);
  visit("ppid", x.ppid);
  visit("pgid", x.pgid);
  visit("sid", x.sid);
  visit("name", x.name);
  visit("command_line", x.command_line);
  visit("executable", x.executable);
  visit("executable_deleted", x.executable_deleted);
  visit("cwd", x.cwd);
  visit.later("cwd_removed", x.cwd_removed);
  visit("root", x.root);
  visit("umask", x.umask);
  visit("personality", x.personality);
  visit("dumpable", x.dumpable);
  visit("no_new_privs", x.no_new_privs);
  visit("oom_score_adj", x.oom_score_adj);
  visit("start_time_ns", x.start_time_ns);
  visit("stop_signal", x.stop_signal);
  visit("credentials", x.credentials);
  visit("limits", x.limits);
  visit("timers", x.timers);
  visit("layout", x.layout);
  visit("auxv", x.auxv);
  visit("actions", x.actions);
  visit("pending", x.pending);
  visit("patches", x.patches);
  visit.later("protection_keys", x.protection_keys);
  visit.later("lock_future", x.lock_future);
  visit.later("posix_timers", x.posix_timers);
  visit.later("settings", x.settings);
  visit.later("seccomp_filters", x.seccomp_filters);
  visit.later("memory_policies", x.memory_policies);
}

void visit_fields(auto& visit, Is<Process> auto& x) {
  visit_head(visit, x);
  visit("threads", x.threads);
  visit("mappings", x.mappings);
  visit("descriptors", x.descriptors);
}

void visit_fields(auto& visit, Is<ConnectionHolder> auto& x) {
  visit("name", x.name);
  visit("pid", x.pid);
  visit("network_namespace", x.network_namespace);
}

/// All of a snapshot but its lists and its host.
void visit_head(auto& visit, Is<Snapshot> auto& x) {
  visit("realtime_ns", x.realtime_ns);
  visit("monotonic_ns", x.monotonic_ns);
  visit("boottime_ns", x.boottime_ns);
  visit("moved", x.moved);
  visit("thin", x.thin);
  visit.later("drop_attributes", x.drop_attributes);
  visit.later("holder", x.holder);
}

void visit_fields(auto& visit, Is<Snapshot> auto& x) {
  visit_head(visit, x);
  visit("host", x.host);
  visit("files", x.files);
  visit("objects", x.objects);
  visit("descriptions", x.descriptions);
  visit("processes", x.processes);
}

void visit_fields(auto& visit, Is<DataRun> auto& x) {
  visit("target", x.target);
  visit("owner", x.owner);
  visit("range", x.range);
}

}  // namespace rfork::image

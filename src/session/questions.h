// What a worker answers about children: RESOLVE and what rforkctl asks.
#pragma once

#include "net/frame.h"
#include "session/worker.h"

namespace rfork::session {

// Each serves one request and throws Refusal with the reasons when it can't be granted.

void answer_resolve(WorkerContext& worker, const net::Frame& request);
void answer_list(WorkerContext& worker);
void answer_logs(WorkerContext& worker, const net::Frame& request);
void answer_events(WorkerContext& worker, const net::Frame& request);
void answer_kill(WorkerContext& worker, const net::Frame& request);
void answer_wait(WorkerContext& worker, const net::Frame& request);
void answer_remove(WorkerContext& worker, const net::Frame& request);

}  // namespace rfork::session

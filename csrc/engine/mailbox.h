// Where a caller waits for the events of its requests: one mailbox for one request, or for thousands.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "engine/request.h"

namespace halfbyte::engine {

// Thread-safe. The engine posts what a step brought in one go, so a reader of many requests wakes once a step.
class Mailbox {
 public:
  Mailbox();
  ~Mailbox();

  void post(std::vector<Event> events);

  // All events that have come, in order; waits up to `timeout` for the first. Empty on timeout and once closed. Throws
  // unsupported in a process that was forked since.
  std::vector<Event> take(std::chrono::milliseconds timeout);

  // Wakes whoever waits; events that come later are dropped.
  void close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halfbyte::engine

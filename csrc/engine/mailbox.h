// Where a caller waits for the events of its requests: one mailbox for one request, or for thousands.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "engine/request.h"

namespace halfbyte::engine {

// Thread-safe. The engine posts what a step brought in one go, so a reader of many requests wakes once a step.
class Mailbox {
 public:
  void post(std::vector<Event> events);

  // All events that have come, in order; waits up to `timeout` for the first. Empty on timeout and once closed.
  std::vector<Event> take(std::chrono::milliseconds timeout);

  // Wakes whoever waits; events that come later are dropped.
  void close();

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Event> events_;
  bool is_closed_ = false;
};

}  // namespace halfbyte::engine

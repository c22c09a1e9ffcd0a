// A vector behind a mutex.
#include "engine/mailbox.h"

#include <condition_variable>
#include <iterator>
#include <mutex>
#include <utility>

#include "base/home.h"

namespace halfbyte::engine {

struct Mailbox::State {
  const Home home;
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Event> events;
  bool is_closed = false;
};

Mailbox::Mailbox() : state_(std::make_unique<State>()) {}

Mailbox::~Mailbox() {
  // Another thread may have waited in it when this process was forked off: such a lock cannot be taken apart.
  if (!state_->home.is_here()) (void)state_.release();
}

void Mailbox::post(std::vector<Event> events) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->is_closed) return;
    state_->events.insert(state_->events.end(), std::make_move_iterator(events.begin()),
                          std::make_move_iterator(events.end()));
  }
  state_->arrived.notify_all();
}

std::vector<Event> Mailbox::take(std::chrono::milliseconds timeout) {
  state_->home.check();
  std::unique_lock lock(state_->mutex);
  state_->arrived.wait_for(lock, timeout, [&] { return state_->is_closed || !state_->events.empty(); });
  return std::exchange(state_->events, {});
}

void Mailbox::close() {
  if (!state_->home.is_here()) return;
  {
    const std::lock_guard lock(state_->mutex);
    state_->is_closed = true;
    state_->events.clear();
  }
  state_->arrived.notify_all();
}

}  // namespace halfbyte::engine

// A vector behind a mutex.
#include "engine/mailbox.h"

#include <iterator>
#include <utility>

namespace halfbyte::engine {

void Mailbox::post(std::vector<Event> events) {
  {
    const std::lock_guard lock(mutex_);
    if (is_closed_) return;
    events_.insert(events_.end(), std::make_move_iterator(events.begin()), std::make_move_iterator(events.end()));
  }
  arrived_.notify_all();
}

std::vector<Event> Mailbox::take(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  arrived_.wait_for(lock, timeout, [&] { return is_closed_ || !events_.empty(); });
  return std::exchange(events_, {});
}

void Mailbox::close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
    events_.clear();
  }
  arrived_.notify_all();
}

}  // namespace halfbyte::engine

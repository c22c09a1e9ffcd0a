// The held text is at most one byte shorter than the longest stop string.
#include "engine/stop.h"

#include <algorithm>
#include <utility>

namespace halfbyte::engine {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

std::string StopMatcher::feed(std::string_view bytes) {
  if (has_matched()) return {};
  if (stops_.empty()) return std::string(bytes);
  held_ += bytes;
  // The match that is complete first decides, so the answer does not depend on how the bytes were cut.
  size_t begin = 0, end = std::string::npos;
  for (size_t i = 0; i < stops_.size(); ++i) {
    const size_t at = held_.find(stops_[i]);
    if (at == std::string::npos) continue;
    const size_t its_end = at + stops_[i].size();
    if (its_end < end || (its_end == end && at < begin)) begin = at, end = its_end, matched_ = static_cast<int>(i);
  }
  if (has_matched()) {
    std::string out = held_.substr(0, begin + (include_stop_ ? match().size() : 0));
    held_.clear();
    return out;
  }
  size_t keep = 0;  // the longest end of held_ that begins a stop string
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::flush() {
  return std::exchange(held_, {});
}

}  // namespace halfbyte::engine

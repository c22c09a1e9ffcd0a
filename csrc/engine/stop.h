// Finds stop strings in a stream of bytes; holds back what may become one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfbyte::engine {

class StopMatcher {
 public:
  // Empty strings are ignored.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  // Adds bytes and returns those that can be shown now. After a match nothing more comes out.
  std::string feed(std::string_view bytes);
  // What was held back, when the answer ends without a match.
  std::string flush();

  bool has_matched() const { return matched_ >= 0; }
  // The string that was complete first; of several that end together the longest.
  const std::string& match() const { return stops_[static_cast<size_t>(matched_)]; }

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace halfbyte::engine

// A GGUF file on disk, or all parts of a split one: names of parts, and tensors found by name.
#include "files/gguf_source.h"

#include <unordered_map>

#include "base/error.h"
#include "files/gguf_reader.h"
#include "files/mapping.h"

namespace halfbyte::files {

namespace {

constexpr uint64_t kMaxSplits = 4096;

// "base-00002-of-00005.gguf" -> base, and where the number stands. False for other names.
bool parse_split_name(const std::string& path, std::string& base, uint64_t& number, uint64_t& count) {
  static constexpr char kTail[] = "-00001-of-00001.gguf";
  constexpr size_t kTailLength = sizeof kTail - 1;
  if (path.size() <= kTailLength) return false;
  const std::string tail = path.substr(path.size() - kTailLength);
  for (size_t i = 0; i < kTailLength; ++i) {
    const bool digit = (i >= 1 && i <= 5) || (i >= 10 && i <= 14);
    if (digit ? (tail[i] < '0' || tail[i] > '9') : tail[i] != kTail[i]) return false;
  }
  base = path.substr(0, path.size() - kTailLength);
  number = std::stoull(tail.substr(1, 5));
  count = std::stoull(tail.substr(10, 5));
  return number >= 1 && count >= 1 && number <= count;
}

}  // namespace

struct GgufSource::State {
  std::vector<std::string> paths;
  std::vector<Mapping> mappings;
  std::vector<size_t> part_of;  // index of the mapping that holds each tensor
  GgufContents contents;        // tensors of all parts; metadata of the first
  std::unordered_map<std::string_view, size_t> by_name;

  size_t index_of(const TensorView& tensor) const { return static_cast<size_t>(&tensor - contents.tensors.data()); }

  void add_part(const std::string& path, uint64_t number, uint64_t count) {
    mappings.emplace_back(path);
    paths.push_back(path);
    GgufContents part = parse_gguf(mappings.back().bytes(), path);
    const auto claimed = part.metadata.get_int("split.count");
    if (count > 1 && claimed && *claimed != 0 && static_cast<uint64_t>(*claimed) != count) {
      throw Error(ErrorKind::format,
                  format_string("%s: part %llu says that the model has %lld parts; its name says %llu.", path.c_str(),
                                static_cast<unsigned long long>(number), static_cast<long long>(*claimed),
                                static_cast<unsigned long long>(count)));
    }
    const auto own = part.metadata.get_int("split.no");
    if (count > 1 && own && *own + 1 != static_cast<int64_t>(number)) {
      throw Error(ErrorKind::format,
                  format_string("%s: its name says that it is part %llu; the file says part %lld.", path.c_str(),
                                static_cast<unsigned long long>(number), static_cast<long long>(*own) + 1),
                  "Give the parts their own names back.");
    }
    std::vector<TensorView> tensors = std::move(part.tensors);
    if (number == 1) contents = std::move(part), contents.tensors.clear();
    for (TensorView& tensor : tensors) {
      contents.tensors.push_back(std::move(tensor));
      part_of.push_back(mappings.size() - 1);
    }
  }
};

GgufSource::GgufSource(const std::string& path) : state_(std::make_unique<State>()) {
  std::string base;
  uint64_t number = 1, count = 1;
  if (parse_split_name(path, base, number, count) && count > 1) {
    if (count > kMaxSplits)
      throw Error(ErrorKind::format,
                  format_string("%s: %llu parts.", path.c_str(), static_cast<unsigned long long>(count)));
    for (uint64_t part = 1; part <= count; ++part) {
      const std::string part_path =
          base + format_string("-%05llu-of-%05llu.gguf", static_cast<unsigned long long>(part),
                               static_cast<unsigned long long>(count));
      try {
        state_->add_part(part_path, part, count);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::io) throw;
        throw Error(ErrorKind::io,
                    format_string("%s: part %llu of %llu is missing or cannot be read.", part_path.c_str(),
                                  static_cast<unsigned long long>(part), static_cast<unsigned long long>(count)),
                    "All parts of a split model must lie in one folder.");
      }
    }
  } else {
    state_->add_part(path, 1, 1);
    const auto claimed = state_->contents.metadata.get_int("split.count");
    if (claimed && *claimed > 1) {
      throw Error(
          ErrorKind::format,
          format_string("%s: one part of a model split in %lld.", path.c_str(), static_cast<long long>(*claimed)),
          "Keep the original names (-00001-of-0000N.gguf) and put all parts in one folder.");
    }
  }
  const auto claimed = state_->contents.metadata.get_int("split.tensors.count");
  if (count > 1 && claimed && static_cast<size_t>(*claimed) != state_->contents.tensors.size()) {
    throw Error(ErrorKind::format, format_string("%s: the parts hold %zu tensors; %lld were expected.", path.c_str(),
                                                 state_->contents.tensors.size(), static_cast<long long>(*claimed)));
  }
  for (size_t i = 0; i < state_->contents.tensors.size(); ++i) {
    if (!state_->by_name.emplace(state_->contents.tensors[i].name, i).second) {
      throw Error(ErrorKind::format, path + ": tensor " + state_->contents.tensors[i].name + " appears in two parts.");
    }
  }
}

GgufSource::~GgufSource() = default;

const Metadata& GgufSource::metadata() const {
  return state_->contents.metadata;
}

void GgufSource::release_vocabulary() {
  state_->contents.metadata.erase_vocabulary();
}
std::span<const TensorView> GgufSource::tensors() const {
  return state_->contents.tensors;
}
const TensorView* GgufSource::find(std::string_view name) const {
  const auto found = state_->by_name.find(name);
  return found == state_->by_name.end() ? nullptr : &state_->contents.tensors[found->second];
}
std::string GgufSource::path() const {
  return state_->paths.front();
}
void GgufSource::release_pages(const TensorView& tensor) const {
  state_->mappings[state_->part_of[state_->index_of(tensor)]].release_pages(tensor.bytes);
}
uint32_t GgufSource::version() const {
  return state_->contents.version;
}
uint64_t GgufSource::alignment() const {
  return state_->contents.alignment;
}
const std::vector<std::string>& GgufSource::paths() const {
  return state_->paths;
}
uint64_t GgufSource::file_offset(const TensorView& tensor) const {
  const Mapping& mapping = state_->mappings[state_->part_of[state_->index_of(tensor)]];
  return static_cast<uint64_t>(tensor.bytes.data() - mapping.bytes().data());
}

std::unique_ptr<TensorSource> open_gguf(const std::string& path) {
  return std::make_unique<GgufSource>(path);
}

}  // namespace halfbyte::files

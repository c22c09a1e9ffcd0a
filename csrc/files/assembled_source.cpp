// Makes tensors on demand and lets go of them when the loader has packed them.
#include "files/assembled_source.h"

#include "base/error.h"

namespace halfbyte::files {

AssembledSource::AssembledSource(std::string path, Metadata metadata, std::vector<LateTensor> tensors)
    : path_(std::move(path)), metadata_(std::move(metadata)), owners_(tensors.size()) {
  for (LateTensor& tensor : tensors) {
    TensorView& view = tensor.view;
    require(view.format != nullptr && !view.shape.empty() && view.shape.size() <= 4,
            "Tensor %s needs a format and 1 to 4 axes.", view.name.c_str());
    for (const int64_t axis : view.shape)
      require(axis >= 1, "Tensor %s has an axis of length %lld.", view.name.c_str(), static_cast<long long>(axis));
    require(view.n_cols() % view.format->block_weights == 0,
            "Tensor %s: rows of %lld weights are no whole blocks of %s.", view.name.c_str(),
            static_cast<long long>(view.n_cols()), std::string(view.format->name).c_str());
    require(by_name_.emplace(view.name, views_.size()).second, "Tensor %s appears twice.", view.name.c_str());
    views_.push_back(std::move(view));
    makers_.push_back(std::move(tensor.make));
  }
}

const TensorView* AssembledSource::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  if (found == by_name_.end()) return nullptr;
  const std::lock_guard lock(mutex_);
  TensorView& view = views_[found->second];
  if (view.bytes.empty()) {
    HeldBytes made = makers_[found->second]();
    require(static_cast<int64_t>(made.bytes.size()) == view.n_bytes(), "Tensor %s: %zu bytes given, %lld expected.",
            view.name.c_str(), made.bytes.size(), static_cast<long long>(view.n_bytes()));
    view.bytes = made.bytes;
    owners_[found->second] = std::move(made.owner);
  }
  return &view;
}

void AssembledSource::release_pages(const TensorView& tensor) const {
  const std::lock_guard lock(mutex_);
  const size_t index = static_cast<size_t>(&tensor - views_.data());
  views_[index].bytes = {};
  owners_[index].reset();
}

}  // namespace halfbyte::files

// Finds each role's tensor, checks its shape against the config, and packs it.
#include "model/weights.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/registry.h"
#include "model/placement.h"

namespace halfbyte::model {

namespace {

enum class Need { required, optional };

// Devices may still be taking in what was packed: waits for them, also where loading fails.
struct Packing {
  const std::vector<const ops::Ops*>& devices;

  explicit Packing(const std::vector<const ops::Ops*>& d) : devices(d) {}
  ~Packing() {
    try {
      finish();
    } catch (const Error&) {  // loading failed before, and tells why
    }
  }
  void finish() const {
    for (const ops::Ops* device : devices) device->finish_packing();
  }
};

class Loader {
 public:
  Loader(std::shared_ptr<files::TensorSource> source, const ops::Ops& ops, const LoadOptions& options)
      : source_(std::move(source)),
        ops_(&ops),
        options_(options),
        pool_(options.n_threads > 0 ? options.n_threads : usable_cores()) {
    for (const files::TensorView& tensor : source_->tensors()) total_bytes_ += tensor.n_bytes();
  }

  std::shared_ptr<const Weights> load() {
    auto weights = std::make_shared<Weights>();
    weights_ = weights.get();
    weights->config = read_config(*source_);
    weights->source = source_;
    weights->device_share = options_.budget.share;
    const Config& c = weights->config;
    Placement placement = place_layers(*source_, c, *ops_, options_);
    weights->rooms = std::move(placement.rooms);
    weights->layer_ops = std::move(placement.layers);
    weights->expert_ops = std::move(placement.experts);
    const Packing packing(options_.devices);
    weights->embedding_ops = weights->layer_ops.front();
    weights->output_ops = weights->layer_ops.back();
    ops_ = weights->embedding_ops;
    weights->token_embedding = raw("token_embd.weight", c.n_vocab, c.n_embd);
    if (c.positions == PositionKind::learned)
      weights->position_embedding = raw("position_embd.weight", c.n_ctx_train, c.n_embd);
    weights->token_embedding_norm = vector("token_embd_norm.weight", c.n_embd, Need::optional);
    weights->token_embedding_norm_bias = vector("token_embd_norm.bias", c.n_embd, Need::optional);
    if (c.n_embd_per_layer > 0) {
      const int64_t width = c.n_layers * c.n_embd_per_layer;
      weights->layer_embedding = raw("per_layer_token_embd.weight", c.n_vocab, width);
      weights->layer_embedding_of_stream = packed("per_layer_model_proj.weight", width, c.n_embd);
      weights->layer_embedding_norm = vector("per_layer_proj_norm.weight", c.n_embd_per_layer);
    }
    if (c.streams.n > 0) weights->to_streams = parts_of_stack("altup_proj.weight", c.n_embd, c.n_embd, c.streams.n - 1);
    ops_ = weights->output_ops;
    if (c.streams.n > 0)
      weights->from_streams = parts_of_stack("altup_unembd_proj.weight", c.n_embd, c.n_embd, c.streams.n - 1);
    weights->output_norm = vector("output_norm.weight", c.n_embd);
    weights->output_norm_bias = vector("output_norm.bias", c.n_embd, Need::optional);
    const char* head = source_->find("output.weight") != nullptr ? "output.weight" : "token_embd.weight";  // tied
    weights->output = packed(head, c.n_vocab, c.n_embd);
    weights->output_bias = vector("output.bias", c.n_vocab, Need::optional);
    const auto with_factors =
        std::find_if(c.layers.begin(), c.layers.end(), [](const LayerConfig& l) { return l.uses_rope_factors; });
    const int64_t pairs = (with_factors != c.layers.end() ? *with_factors : c.layers.front()).rope_dim / 2;
    weights->rope_factors = numbers("rope_freqs.weight", pairs, Need::optional);
    weights->rope_factors_long = numbers("rope_factors_long.weight", pairs, Need::optional);
    weights->rope_factors_short = numbers("rope_factors_short.weight", pairs, Need::optional);
    if (c.rope_scaling == RopeScaling::longrope &&
        (weights->rope_factors_long.empty() || weights->rope_factors_short.empty())) {
      fail("rope scaling longrope needs the tensors rope_factors_long.weight and rope_factors_short.weight");
    }
    for (int64_t i = 0; i < c.n_layers; ++i) weights->layers.push_back(layer(i));
    packing.finish();
    source_->release_vocabulary();
    report(true);
    return weights;
  }

 private:
  LayerWeights layer(int64_t index) {
    const Config& c = weights_->config;
    const LayerConfig& shape = c.layers[static_cast<size_t>(index)];
    const std::string p = "blk." + std::to_string(index) + ".";
    ops_ = weights_->layer_ops[static_cast<size_t>(index)];
    const int64_t q_dim = int64_t{shape.n_heads} * shape.key_dim, k_dim = int64_t{shape.n_kv_heads} * shape.key_dim,
                  v_dim = int64_t{shape.n_kv_heads} * shape.value_dim,
                  o_dim = int64_t{shape.n_heads} * (c.latent.rank > 0 ? c.latent.value_dim : shape.value_dim);
    const bool norms_before = c.norm_places != NormPlaces::post;
    const bool norms_after = c.norm_places == NormPlaces::post || c.norm_places == NormPlaces::pre_and_post;
    const bool second_norm = c.norm_places == NormPlaces::pre || c.norm_places == NormPlaces::pre_and_post;
    LayerWeights w;
    if (norms_before) {
      w.attn_norm = vector(p + "attn_norm.weight", c.n_embd);
      w.attn_norm_bias = vector(p + "attn_norm.bias", c.n_embd, Need::optional);
      w.attn_norm_2 = vector(p + "attn_norm_2.weight", c.n_embd, Need::optional);
      w.attn_norm_2_bias = vector(p + "attn_norm_2.bias", c.n_embd, Need::optional);
      // Some families name the norm in front of the MLP after what it follows.
      const bool by_place = c.norm_places == NormPlaces::pre && source_->find(p + "ffn_norm.weight") == nullptr &&
                            source_->find(p + "post_attention_norm.weight") != nullptr;
      w.mlp_norm = vector(p + (by_place ? "post_attention_norm.weight" : "ffn_norm.weight"), c.n_embd,
                          second_norm ? Need::required : Need::optional);
      w.mlp_norm_bias = vector(p + "ffn_norm.bias", c.n_embd, Need::optional);
    }
    if (norms_after) {
      w.attn_post_norm = vector(p + "post_attention_norm.weight", c.n_embd);
      w.mlp_post_norm = vector(p + "post_ffw_norm.weight", c.n_embd);
    }
    if (c.latent.rank > 0) {
      latent(p, shape.n_heads, w);
    } else if (!c.norm_values && source_->find(p + "attn_qkv.weight") != nullptr) {
      w.qkv = packed(p + "attn_qkv.weight", q_dim + k_dim + v_dim, c.n_embd);
      w.qkv_bias = vector(p + "attn_qkv.bias", q_dim + k_dim + v_dim, Need::optional);
    } else {
      w.q = packed(p + "attn_q.weight", q_dim, c.n_embd);
      w.q_bias = vector(p + "attn_q.bias", q_dim, Need::optional);
      if (shape.kv_layer < 0) keys_and_values(p, k_dim, v_dim, w);
    }
    w.q_norm = head_norm(p + "attn_q_norm.weight", shape.key_dim, q_dim);
    w.q_norm_bias = head_norm(p + "attn_q_norm.bias", shape.key_dim, q_dim);
    if (shape.kv_layer < 0) {
      w.k_norm = head_norm(p + "attn_k_norm.weight", shape.key_dim, k_dim);
      w.k_norm_bias = head_norm(p + "attn_k_norm.bias", shape.key_dim, k_dim);
    }
    w.sinks = vector(p + "attn_sinks.weight", shape.n_heads, Need::optional);
    w.o = packed(p + "attn_output.weight", c.n_embd, o_dim);
    w.o_bias = vector(p + "attn_output.bias", c.n_embd, Need::optional);
    if (shape.n_experts > 0) w.experts = experts(p, shape, *weights_->expert_ops[static_cast<size_t>(index)]);
    const bool is_shared = shape.n_experts > 0 && !c.experts.stand_beside;
    if (shape.n_experts == 0 || shape.n_ff > 0) mlp(p, is_shared ? "_shexp" : "", shape.n_ff, w);
    if (c.n_embd_per_layer > 0) {
      w.embedding.gate = packed(p + "inp_gate.weight", c.n_embd_per_layer, c.n_embd);
      w.embedding.out = packed(p + "proj.weight", c.n_embd, c.n_embd_per_layer);
      w.embedding.out_norm = vector(p + "post_norm.weight", c.n_embd);
    }
    if (c.residual_rank > 0) {
      w.residual.down = packed(p + "laurel_l.weight", c.residual_rank, c.n_embd);
      w.residual.up = packed(p + "laurel_r.weight", c.n_embd, c.residual_rank);
      w.residual.norm = vector(p + "laurel_post_norm.weight", c.n_embd);
    }
    if (c.streams.n > 0) w.streams = streams(p);
    const std::vector<float> scale = numbers(p + "layer_output_scale.weight", 1, Need::optional);
    if (!scale.empty()) w.stream_scale = kept(std::vector<float>(static_cast<size_t>(c.n_embd), scale.front()));
    return w;
  }

  StreamWeights streams(const std::string& p) {
    const Config& c = weights_->config;
    const int64_t n = c.streams.n;
    StreamWeights w;
    w.router_norm = vector(p + "altup_router_norm.weight", c.n_embd);
    w.router = packed(p + "altup_router.weight", n, c.n_embd);
    w.predict = packed(p + "altup_predict_coef.weight", n * n, n);
    w.correct = packed(p + "altup_correct_coef.weight", n, n);
    w.output_scale = vector(p + "altup_correct_scale.weight", c.n_embd);
    std::vector<float> identity(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) identity[static_cast<size_t>(i * n + i)] = 1.0f;
    w.identity = kept(identity);
    w.ones = kept(std::vector<float>(static_cast<size_t>(n), 1.0f));
    return w;
  }

  // Without a matrix of values, the keys, as they are before their norm, are the values, too.
  void keys_and_values(const std::string& p, int64_t k_dim, int64_t v_dim, LayerWeights& w) {
    const Config& c = weights_->config;
    w.k = packed(p + "attn_k.weight", k_dim, c.n_embd);
    w.k_bias = vector(p + "attn_k.bias", k_dim, Need::optional);
    if (c.norm_values && k_dim == v_dim && source_->find(p + "attn_v.weight") == nullptr) return;
    w.v = packed(p + "attn_v.weight", v_dim, c.n_embd);
    w.v_bias = vector(p + "attn_v.bias", v_dim, Need::optional);
  }

  // Queries, and what latent attention has instead of keys and values.
  void latent(const std::string& p, int64_t n_heads, LayerWeights& layer) {
    const Config& c = weights_->config;
    const LatentConfig& l = c.latent;
    const int64_t rope_dim = c.layers.front().rope_dim, still = l.key_dim - rope_dim;
    LatentWeights& w = layer.latent;
    w.kv_down = packed(p + "attn_kv_a_mqa.weight", l.rank + rope_dim, c.n_embd);
    w.kv_norm = vector(p + "attn_kv_a_norm.weight", l.rank);
    if (const files::TensorView* down = source_->find(p + "attn_q_a.weight")) {
      w.q_down = packed(down->name, down->n_rows(), c.n_embd);
      w.q_norm = vector(p + "attn_q_a_norm.weight", w.q_down.n_rows);
      layer.q = packed(p + "attn_q_b.weight", n_heads * l.key_dim, w.q_down.n_rows);
    } else {
      layer.q = packed(p + "attn_q.weight", n_heads * l.key_dim, c.n_embd);
    }
    if (source_->find(p + "attn_kv_b.weight") != nullptr) return split_latent(p + "attn_kv_b.weight", n_heads, w);
    w.key_up = packed(p + "attn_k_b.weight", l.rank, still, n_heads);
    w.value_up = packed(p + "attn_v_b.weight", l.value_dim, l.rank, n_heads);
  }

  // Older files hold, head after head, the matrices of its keys and of its values one above the other. Values' rows are
  // taken as they are; the keys' matrices are turned: their blocks cannot be, their numbers can.
  void split_latent(const std::string& name, int64_t n_heads, LatentWeights& w) {
    const LatentConfig& l = weights_->config.latent;
    const int64_t rank = l.rank, still = l.key_dim - weights_->config.layers.front().rope_dim,
                  n_rows = still + l.value_dim;
    const ops::MatrixSource both = matrix(name, n_heads * n_rows, rank);
    const formats::Format& format = *both.format;
    const bool is_plain = format.block_weights == 1;
    const formats::Format& turned = is_plain ? format : *formats::find_format("F16");
    const auto row_bytes = static_cast<size_t>(format.row_bytes(rank));
    const auto turned_bytes = static_cast<size_t>(turned.row_bytes(still));
    const auto n_keys = static_cast<size_t>(n_heads * rank) * turned_bytes;
    const auto n_values = static_cast<size_t>(n_heads * l.value_dim) * row_bytes;
    Buffer keys(n_keys, "Latent attention's keys"), values(n_values, "Latent attention's values");
    pool_.parallel_for(n_heads, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> rows(static_cast<size_t>(still * rank)), columns(rows.size());
      for (int64_t h = begin; h < end; ++h) {
        const std::byte* head = both.bytes.data() + static_cast<size_t>(h * n_rows) * row_bytes;
        format.decode(head, rows.data(), still * rank / format.block_weights);
        for (int64_t r = 0; r < still; ++r)
          for (int64_t k = 0; k < rank; ++k)
            columns[static_cast<size_t>(k * still + r)] = rows[static_cast<size_t>(r * rank + k)];
        turned.encode(columns.data(), keys.data() + static_cast<size_t>(h * rank) * turned_bytes, still * rank);
        std::memcpy(values.data() + static_cast<size_t>(h * l.value_dim) * row_bytes,
                    head + static_cast<size_t>(still) * row_bytes, static_cast<size_t>(l.value_dim) * row_bytes);
      }
    });
    w.key_up = packed_copy(std::move(keys), turned, rank, still, n_heads);
    w.value_up = packed_copy(std::move(values), format, l.value_dim, rank, n_heads);
    done_bytes_ += static_cast<int64_t>(both.bytes.size());
  }

  // The dense MLP, or the shared expert beside the others.
  void mlp(const std::string& p, const std::string& suffix, int64_t n_ff, LayerWeights& w) {
    const Config& c = weights_->config;
    const std::string gate = p + "ffn_gate" + suffix, up = p + "ffn_up" + suffix, down = p + "ffn_down" + suffix;
    if (c.gated_mlp && source_->find(gate + ".weight") == nullptr) {
      w.gate_up = packed(up + ".weight", 2 * n_ff, c.n_embd);
    } else {
      if (c.gated_mlp) {
        w.gate = packed(gate + ".weight", n_ff, c.n_embd);
        w.gate_bias = vector(gate + ".bias", n_ff, Need::optional);
      }
      w.up = packed(up + ".weight", n_ff, c.n_embd);
      w.up_bias = vector(up + ".bias", n_ff, Need::optional);
    }
    w.down = packed(down + ".weight", c.n_embd, n_ff);
    w.down_bias = vector(down + ".bias", c.n_embd, Need::optional);
  }

  // The router's side lies with the layer, the stacks with `owner`.
  ExpertWeights experts(const std::string& p, const LayerConfig& shape, const ops::Ops& owner) {
    const int64_t n_embd = weights_->config.n_embd, n_ff = shape.n_ff_expert, n = shape.n_experts;
    ExpertWeights w;
    w.router = packed(p + "ffn_gate_inp.weight", n, n_embd);
    w.router_bias = vector(p + "ffn_gate_inp.bias", n, Need::optional);
    w.choice_bias = vector(p + "exp_probs_b.bias", n, Need::optional);
    w.strengths = vector(p + "ffn_down_exps.scale", n, Need::optional);
    if (weights_->config.experts.stand_beside) {
      std::vector<float> scale = numbers(p + "ffn_gate_inp.scale", n_embd, Need::required);
      for (float& s : scale) s /= std::sqrt(static_cast<float>(n_embd));
      w.router_norm = kept(scale);
      w.input_norm = vector(p + "pre_ffw_norm_2.weight", n_embd);
      w.output_norm = vector(p + "post_ffw_norm_2.weight", n_embd);
      w.dense_output_norm = vector(p + "post_ffw_norm_1.weight", n_embd);
    }
    if (source_->find(p + "ffn_gate_inp_shexp.weight") != nullptr)
      w.shared_gate = packed(p + "ffn_gate_inp_shexp.weight", 1, n_embd);
    const ops::Ops* const layer_ops = std::exchange(ops_, &owner);
    if (source_->find(p + "ffn_gate_up_exps.weight") != nullptr) {
      w.gate = half_of_stack(p + "ffn_gate_up_exps.weight", 0, n_ff, n_embd, n);
      w.up = half_of_stack(p + "ffn_gate_up_exps.weight", 1, n_ff, n_embd, n);
      w.gate.name = p + "ffn_gate_up_exps.weight";  // what enters one enters the other
    } else {
      w.gate = packed(p + "ffn_gate_exps.weight", n_ff, n_embd, n);
      w.up = packed(p + "ffn_up_exps.weight", n_ff, n_embd, n);
    }
    w.down = packed(p + "ffn_down_exps.weight", n_embd, n_ff, n);
    w.gate_bias = vector(p + "ffn_gate_exps.bias", n * n_ff, Need::optional);
    w.up_bias = vector(p + "ffn_up_exps.bias", n * n_ff, Need::optional);
    w.down_bias = vector(p + "ffn_down_exps.bias", n * n_embd, Need::optional);
    ops_ = layer_ops;
    return w;
  }

  [[noreturn]] void fail(const std::string& problem) const {
    throw Error(ErrorKind::format, source_->path() + ": " + problem + ".",
                "The file does not fit its own description; fetch or convert it again.");
  }

  const files::TensorView* tensor(const std::string& name, Need need) const {
    const files::TensorView* found = source_->find(name);
    if (found == nullptr && need == Need::required) fail("tensor " + name + " is missing");
    return found;
  }

  Vector vector(const std::string& name, int64_t n, Need need = Need::required) { return kept(numbers(name, n, need)); }

  Vector kept(const std::vector<float>& values) {
    Vector v(values, *ops_->memory);
    count(v.size() * sizeof(float));
    return v;
  }

  // Bytes that what is being loaded takes.
  void count(size_t n_bytes) {
    for (DeviceRoom& room : weights_->rooms) {
      if (room.memory == ops_->memory) room.weight_bytes += static_cast<int64_t>(n_bytes);
    }
  }

  std::vector<float> numbers(const std::string& name, int64_t n, Need need) {
    const files::TensorView* view = tensor(name, need);
    if (view == nullptr) return {};
    if (view->n_weights() != n) {
      fail(format_string("tensor %s holds %lld numbers; %lld were expected", name.c_str(),
                         static_cast<long long>(view->n_weights()), static_cast<long long>(n)));
    }
    std::vector<float> out(static_cast<size_t>(n));
    view->format->decode(view->bytes.data(), out.data(), n / view->format->block_weights);
    return out;
  }

  // A norm of q or k: over each head, or over the whole row.
  Vector head_norm(const std::string& name, int64_t head_dim, int64_t row_dim) {
    const files::TensorView* view = tensor(name, Need::optional);
    if (view == nullptr) return {};
    return vector(name, view->n_weights() == head_dim ? head_dim : row_dim);
  }

  // n_matrices above 1: a stack with an axis of its own.
  ops::MatrixSource matrix(const std::string& name, int64_t n_rows, int64_t n_cols, int64_t n_matrices = 1) const {
    const files::TensorView& view = *tensor(name, Need::required);
    const int64_t stacked_rows = view.shape.size() > 2 ? view.shape[1] : view.n_rows() / n_matrices;
    if (view.n_cols() != n_cols || view.n_rows() != n_rows * n_matrices || stacked_rows != n_rows) {
      fail(format_string("tensor %s is %lld x %lld; %lld x %lld was expected", name.c_str(),
                         static_cast<long long>(view.n_rows()), static_cast<long long>(view.n_cols()),
                         static_cast<long long>(n_rows * n_matrices), static_cast<long long>(n_cols)));
    }
    return {view.format, n_rows, n_cols, view.bytes, n_matrices};
  }

  ops::Matrix raw(const std::string& name, int64_t n_rows, int64_t n_cols) {
    return ops_->pack(matrix(name, n_rows, n_cols), true, pool_);
  }

  ops::Matrix packed(const std::string& name, int64_t n_rows, int64_t n_cols, int64_t n_matrices = 1) {
    const ops::MatrixSource source = matrix(name, n_rows, n_cols, n_matrices);
    ops::Matrix m = ops_->pack(source, options_.keep_raw && ops_->memory->is_host, pool_);
    m.name = name;
    weights_->packed_bytes += m.layout == ops::Layout::raw ? 0 : m.bytes();
    count(m.storage.size());
    done_bytes_ += static_cast<int64_t>(source.bytes.size());
    if (m.layout != ops::Layout::raw && name != "token_embd.weight") source_->release_pages(*source_->find(name));
    report(false);
    return m;
  }

  // Of what no tensor holds as it is. Has no name.
  ops::Matrix packed_copy(Buffer bytes, const formats::Format& format, int64_t n_rows, int64_t n_cols,
                          int64_t n_matrices) {
    ops::Matrix m = ops_->pack({&format, n_rows, n_cols, {bytes.data(), bytes.size()}, n_matrices}, false, pool_);
    if (m.layout == ops::Layout::raw) m.storage = std::move(bytes);  // it points into them
    weights_->packed_bytes += m.bytes();
    report(false);
    return m;
  }

  // The matrices of a stack, each by itself. They have no names.
  std::vector<ops::Matrix> parts_of_stack(const std::string& name, int64_t n_rows, int64_t n_cols, int64_t n) {
    const ops::MatrixSource stack = matrix(name, n_rows, n_cols, n);
    const size_t n_bytes = stack.bytes.size() / static_cast<size_t>(n);
    std::vector<ops::Matrix> parts;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
      Buffer bytes(n_bytes, "A matrix of a stack");
      std::memcpy(bytes.data(), stack.bytes.data() + i * n_bytes, n_bytes);
      parts.push_back(packed_copy(std::move(bytes), *stack.format, n_rows, n_cols, 1));
    }
    done_bytes_ += static_cast<int64_t>(stack.bytes.size());
    return parts;
  }

  // The first or second half of the rows of every matrix of a stack.
  ops::Matrix half_of_stack(const std::string& name, size_t which, int64_t n_rows, int64_t n_cols, int64_t n_matrices) {
    const ops::MatrixSource both = matrix(name, 2 * n_rows, n_cols, n_matrices);
    const size_t n_bytes = both.bytes.size() / 2, half = n_bytes / static_cast<size_t>(n_matrices);
    Buffer bytes(n_bytes, "Half of the experts of a layer");
    for (size_t m = 0; m < static_cast<size_t>(n_matrices); ++m)
      std::memcpy(bytes.data() + m * half, both.bytes.data() + (2 * m + which) * half, half);
    done_bytes_ += static_cast<int64_t>(n_bytes);
    return packed_copy(std::move(bytes), *both.format, n_rows, n_cols, n_matrices);
  }

  void report(bool finished) {
    if (!options_.progress) return;
    const auto now = std::chrono::steady_clock::now();
    if (!finished && now - last_report_ < std::chrono::milliseconds(20)) return;
    last_report_ = now;
    if (!options_.progress(finished ? total_bytes_ : done_bytes_, total_bytes_)) {
      throw Error(ErrorKind::cancelled, "Loading " + source_->path() + " was stopped.");
    }
  }

  std::shared_ptr<files::TensorSource> source_;
  const ops::Ops* ops_;  // of what is being loaded
  const LoadOptions& options_;
  ThreadPool pool_;
  Weights* weights_ = nullptr;
  int64_t total_bytes_ = 0, done_bytes_ = 0;
  std::chrono::steady_clock::time_point last_report_;
};

}  // namespace

Vector::Vector(const std::vector<float>& values, const ops::Memory& memory) {
  const size_t n_bytes = values.size() * sizeof(float);
  if (n_bytes == 0) return;
  storage_ = memory.allocate(n_bytes, "A norm or bias");
  memory.upload(storage_.data(), values.data(), n_bytes);
}

bool Weights::fuses_gate() const {
  return std::any_of(layers.begin(), layers.end(), [](const LayerWeights& l) { return static_cast<bool>(l.gate_up); });
}

int64_t Weights::q_rank() const {
  int64_t rank = 0;
  for (const LayerWeights& l : layers) rank = std::max(rank, l.latent.q_down.n_rows);
  return rank;
}

std::shared_ptr<const Weights> load_weights(std::shared_ptr<files::TensorSource> source, const ops::Ops& ops,
                                            const LoadOptions& options) {
  return Loader(std::move(source), ops, options).load();
}

}  // namespace halfbyte::model

// Every architecture: one line each. A family's file defines the value that is named here.
#pragma once

#include "model/arch.h"

namespace halfbyte::model::archs {

extern const Arch falcon;
extern const Arch gemma;
extern const Arch gemma2;
extern const Arch gemma3;
extern const Arch gpt2;
extern const Arch gpt_oss;
extern const Arch gptneox;
extern const Arch granite;
extern const Arch granitemoe;
extern const Arch llama;
extern const Arch olmo2;
extern const Arch olmoe;
extern const Arch phi2;
extern const Arch phi3;
extern const Arch qwen2;
extern const Arch qwen2moe;
extern const Arch qwen3;
extern const Arch qwen3moe;
extern const Arch smollm3;
extern const Arch starcoder2;

inline constexpr const Arch* kAll[] = {
    &falcon, &gemma, &gemma2, &gemma3, &gpt2,  &gpt_oss,  &gptneox, &granite,  &granitemoe, &llama,
    &olmo2,  &olmoe, &phi2,   &phi3,   &qwen2, &qwen2moe, &qwen3,   &qwen3moe, &smollm3,    &starcoder2,
};

}  // namespace halfbyte::model::archs

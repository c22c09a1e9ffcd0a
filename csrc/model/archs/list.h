// Every architecture: one line each. A family's file defines the value that is named here.
#pragma once

#include "model/arch.h"

namespace halfbyte::model::archs {

extern const Arch arcee;
extern const Arch chatglm;
extern const Arch cohere2;
extern const Arch command_r;
extern const Arch deepseek2;
extern const Arch dots1;
extern const Arch ernie4_5;
extern const Arch ernie4_5_moe;
extern const Arch exaone;
extern const Arch exaone4;
extern const Arch falcon;
extern const Arch gemma;
extern const Arch gemma2;
extern const Arch gemma3;
extern const Arch gemma3n;
extern const Arch gemma4;
extern const Arch glm4;
extern const Arch glm4moe;
extern const Arch gpt2;
extern const Arch gpt_oss;
extern const Arch gptneox;
extern const Arch granite;
extern const Arch granitemoe;
extern const Arch hunyuan_dense;
extern const Arch hunyuan_moe;
extern const Arch internlm2;
extern const Arch llama;
extern const Arch minimax_m2;
extern const Arch minicpm;
extern const Arch mistral3;
extern const Arch nemotron;
extern const Arch olmo2;
extern const Arch olmoe;
extern const Arch phi2;
extern const Arch phi3;
extern const Arch qwen2;
extern const Arch qwen2moe;
extern const Arch qwen2vl;
extern const Arch qwen3;
extern const Arch qwen3moe;
extern const Arch qwen3vl;
extern const Arch qwen3vlmoe;
extern const Arch seed_oss;
extern const Arch smollm3;
extern const Arch stablelm;
extern const Arch starcoder;
extern const Arch starcoder2;

inline constexpr const Arch* kAll[] = {
    &arcee,       &chatglm,    &cohere2,  &command_r,  &deepseek2, &dots1,     &ernie4_5,   &ernie4_5_moe,
    &exaone,      &exaone4,    &falcon,   &gemma,      &gemma2,    &gemma3,    &gemma3n,    &gemma4,
    &glm4,        &glm4moe,    &gpt2,     &gpt_oss,    &gptneox,   &granite,   &granitemoe, &hunyuan_dense,
    &hunyuan_moe, &internlm2,  &llama,    &minimax_m2, &minicpm,   &mistral3,  &nemotron,   &olmo2,
    &olmoe,       &phi2,       &phi3,     &qwen2,      &qwen2moe,  &qwen2vl,   &qwen3,      &qwen3moe,
    &qwen3vl,     &qwen3vlmoe, &seed_oss, &smollm3,    &stablelm,  &starcoder, &starcoder2,
};

}  // namespace halfbyte::model::archs

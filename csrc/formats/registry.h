// The list of all block formats. Loader checks, tests, help texts and documents are made from it.
#pragma once

#include <span>
#include <string_view>

#include "formats/format.h"

namespace halfbyte::formats {

std::span<const Format> all_formats();

// nullptr when the id is unknown or retired.
const Format* find_format(uint32_t id);

// By name, any case ("q4_k", "Q4_K"); nullptr when unknown.
const Format* find_format(std::string_view name);

// For ids that the registry knows by construction.
const Format& format_of(TypeId id);

}  // namespace halfbyte::formats

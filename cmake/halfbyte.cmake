# Functions that declare rooms and CPU levels; every target gets the same flags from halfbyte_flags.

add_library(halfbyte_flags INTERFACE)
target_compile_options(halfbyte_flags INTERFACE
  -Wall -Wextra -Wno-unused-parameter
  # Results must not depend on what the optimizer fuses: multiply-adds are written out where they are meant.
  -ffp-contract=off)
target_link_libraries(halfbyte_flags INTERFACE Threads::Threads)
target_include_directories(halfbyte_flags INTERFACE ${CMAKE_SOURCE_DIR}/csrc)
if(HALFBYTE_SANITIZE)
  target_compile_options(halfbyte_flags INTERFACE
    -fsanitize=${HALFBYTE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  target_link_options(halfbyte_flags INTERFACE -fsanitize=${HALFBYTE_SANITIZE})
endif()

# halfbyte_room(name USES room...): the library of csrc/<name> and its subfolders.
# CPU level files are left out: they are compiled with their own flags (cmake/cpu_levels.cmake).
function(halfbyte_room name)
  cmake_parse_arguments(room "" "" "USES" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/csrc/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "/csrc/cpu/levels/")
  if(sources)
    add_library(halfbyte_${name} STATIC ${sources})
    set(scope PUBLIC)
    target_link_libraries(halfbyte_${name} PRIVATE halfbyte_flags)
  else()
    add_library(halfbyte_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  foreach(used IN LISTS room_USES)
    target_link_libraries(halfbyte_${name} ${scope} halfbyte_${used})
  endforeach()
  target_link_libraries(halfbyte_${name} ${scope} Threads::Threads)
endfunction()

# halfbyte_cpu_level(name FLAGS ...): compiles csrc/cpu/levels/<name>.cpp with the level's instruction
# set and links it into the CPU backend. Link-time optimization stays off: it would merge inline code
# across levels, and an older CPU would then run instructions that it lacks.
function(halfbyte_cpu_level name)
  cmake_parse_arguments(level "" "" "FLAGS" ${ARGN})
  set(source ${CMAKE_SOURCE_DIR}/csrc/cpu/levels/${name}.cpp)
  if(NOT EXISTS ${source})
    message(FATAL_ERROR "CPU level ${name}: no file ${source}")
  endif()
  add_library(halfbyte_level_${name} OBJECT ${source})
  target_compile_options(halfbyte_level_${name} PRIVATE ${level_FLAGS} -fno-lto -O3
    -Wno-maybe-uninitialized -Wno-uninitialized)  # GCC 12 warns inside its own intrinsics
  target_link_libraries(halfbyte_level_${name} PRIVATE halfbyte_flags)
  target_sources(halfbyte_cpu PRIVATE $<TARGET_OBJECTS:halfbyte_level_${name}>)
  if(CMAKE_NM AND NOT APPLE AND NOT HALFBYTE_SANITIZE)
    set(stamp ${CMAKE_BINARY_DIR}/level_${name}.checked)
    set(object $<TARGET_OBJECTS:halfbyte_level_${name}>)
    add_custom_command(OUTPUT ${stamp} DEPENDS ${object} ${CMAKE_SOURCE_DIR}/cmake/check_level.cmake VERBATIM
      COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DOBJECT=${object} -DENTRY=fill_${name}
        -P ${CMAKE_SOURCE_DIR}/cmake/check_level.cmake
      COMMAND ${CMAKE_COMMAND} -E touch ${stamp})
    target_sources(halfbyte_cpu PRIVATE ${stamp})
  endif()
endfunction()

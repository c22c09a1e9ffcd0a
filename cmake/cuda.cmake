# The CUDA backend: a library of its own beside the extension, opened at run time (csrc/bindings/cuda_entry.cpp).
#
# HALFBYTE_CUDA: AUTO builds it where nvcc and a card are found, for that card; ON wherever nvcc is, for the cards of
# HALFBYTE_CUDA_ARCHITECTURES (default: all of 7.5 to 12.0, and PTX, which later ones compile when it is first loaded);
# OFF never.
set(HALFBYTE_CUDA "$ENV{HALFBYTE_CUDA}" CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set(HALFBYTE_CUDA_ARCHITECTURES "$ENV{HALFBYTE_CUDA_ARCHITECTURES}" CACHE STRING "CMake's list of CUDA architectures")
if(HALFBYTE_CUDA STREQUAL "")
  set(HALFBYTE_CUDA AUTO)
endif()
if(HALFBYTE_CUDA STREQUAL "AUTO")
  if(NOT EXISTS /dev/nvidia0 AND NOT EXISTS /dev/dxg)
    set(HALFBYTE_CUDA OFF)
  elseif(HALFBYTE_CUDA_ARCHITECTURES STREQUAL "")
    set(HALFBYTE_CUDA_ARCHITECTURES native)
  endif()
endif()
if(NOT HALFBYTE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND HALFBYTE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "HALFBYTE_CUDA=ON, but there is no CUDA compiler: put nvcc on the PATH or set CUDACXX.")
  endif()
endif()
if(NOT HALFBYTE_CUDA STREQUAL "OFF" AND CMAKE_CUDA_COMPILER)
  if(HALFBYTE_CUDA_ARCHITECTURES STREQUAL "")
    # The sources know two kinds of tensor cores, those of 7.5 and those since 8.0: two intermediate codes, which take
    # most of the time, make the machine code of all.
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    set(architectures -gencode=arch=compute_75,code=sm_75 -gencode=arch=compute_80,code=compute_80)
    foreach(capability 80 86 89 90 100 120)
      list(APPEND architectures -gencode=arch=compute_80,code=sm_${capability})
    endforeach()
  else()
    set(CMAKE_CUDA_ARCHITECTURES ${HALFBYTE_CUDA_ARCHITECTURES})
    set(architectures "")
  endif()
  enable_language(CUDA)
  # CMake before 3.26 does not know that nvcc has C++20.
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/csrc/cuda/*.cpp ${CMAKE_SOURCE_DIR}/csrc/cuda/*.cu)
  find_package(CUDAToolkit REQUIRED)
  add_library(halfbyte_cuda_backend SHARED ${cuda_sources})
  set_target_properties(halfbyte_cuda_backend PROPERTIES OUTPUT_NAME halfbyte_cuda CUDA_VISIBILITY_PRESET hidden
    CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(halfbyte_cuda_backend PRIVATE
    # Multiply-adds are written out where they are meant, as in the rest of the code.
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-fmad=false;-Xcompiler=-Wno-unknown-pragmas;${architectures}>"
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -ffp-contract=off>)
  target_include_directories(halfbyte_cuda_backend PRIVATE ${CMAKE_SOURCE_DIR}/csrc)
  target_link_libraries(halfbyte_cuda_backend PRIVATE halfbyte_ops halfbyte_formats halfbyte_base CUDA::cudart_static)
  install(TARGETS halfbyte_cuda_backend DESTINATION halfbyte COMPONENT python)
endif()

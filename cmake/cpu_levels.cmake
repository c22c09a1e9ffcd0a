# One line per CPU level: the file csrc/cpu/levels/<name>.cpp and the instructions it may use.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(avx2 -mavx2 -mfma -mf16c)
  halfbyte_cpu_level(avx2 FLAGS ${avx2})
  halfbyte_cpu_level(avx_vnni FLAGS ${avx2} -mavxvnni)
  halfbyte_cpu_level(avx512 FLAGS ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512)
endif()

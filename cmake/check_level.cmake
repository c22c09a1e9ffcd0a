# Run on a CPU level's object (cmake -DNM=... -DOBJECT=... -DENTRY=... -P): what it exports is its entry and nothing else.
# Inline code that two objects have in common is merged by the linker, and could be a newer level's for an older CPU.
execute_process(COMMAND ${NM} --defined-only ${OBJECT} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]* [TDBRVWu] [^\n]*" exported "${symbols}")
list(LENGTH exported n_exported)
if(NOT n_exported EQUAL 1 OR NOT exported MATCHES "${ENTRY}")
  list(JOIN exported "\n  " listed)
  message(FATAL_ERROR "${OBJECT} exports\n  ${listed}\n${ENTRY} alone was expected. "
    "Put the rest into an anonymous namespace; where a compiler left a library's inline function, have it inlined.")
endif()

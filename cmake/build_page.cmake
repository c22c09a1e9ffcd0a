# Runs npm on a copy of page/ and leaves FOLDER/out/index.html; a failure is a message, and the build goes on.

file(REMOVE_RECURSE ${FOLDER}/out)
file(COPY ${SOURCES}/ DESTINATION ${FOLDER}/work PATTERN node_modules EXCLUDE)
set(ENV{HALFBYTE_PAGE_OUT} ${FOLDER}/out)

function(npm)
  execute_process(COMMAND ${NPM} ${ARGV} WORKING_DIRECTORY ${FOLDER}/work TIMEOUT 180
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  file(APPEND ${FOLDER}/log.txt "${output}\n")
  set(result ${result} PARENT_SCOPE)
endfunction()

file(WRITE ${FOLDER}/log.txt "")
# No package's scripts run, and a registry that does not answer is given up after seconds.
npm(ci --ignore-scripts --no-audit --no-fund --prefer-offline --fetch-retries=1 --fetch-timeout=15000)
if(result EQUAL 0)
  npm(run build)
endif()
if(NOT EXISTS ${FOLDER}/out/index.html)
  message("The chat page was left out, because npm failed (${result}); ${FOLDER}/log.txt tells why.")
endif()
file(TOUCH ${FOLDER}/stamp)

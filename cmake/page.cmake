# Puts the chat page (page/) into the wheel when npm is there. Never in the way: without Node, or without a network
# for npm, the wheel is built without the page, and the server says how to get it.

find_program(HALFBYTE_NPM npm)
if(SKBUILD AND HALFBYTE_NPM)
  file(GLOB_RECURSE page_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/page/src/*)
  set(page_folder ${CMAKE_BINARY_DIR}/page)
  add_custom_command(OUTPUT ${page_folder}/stamp
    COMMAND ${CMAKE_COMMAND} -DNPM=${HALFBYTE_NPM} -DSOURCES=${CMAKE_SOURCE_DIR}/page -DFOLDER=${page_folder}
            -P ${CMAKE_SOURCE_DIR}/cmake/build_page.cmake
    DEPENDS ${page_sources} cmake/build_page.cmake
            page/index.html page/package-lock.json page/package.json page/vite.config.ts
    COMMENT "Building the chat page")
  add_custom_target(page ALL DEPENDS ${page_folder}/stamp)
  install(FILES ${page_folder}/out/index.html DESTINATION halfbyte/server/page COMPONENT python OPTIONAL)
endif()

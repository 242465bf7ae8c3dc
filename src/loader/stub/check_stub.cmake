# Fails the build when the stub isn't what it must be: no undefined symbol, no relocation, no data,
# no segment that is writable and executable.
#   cmake -DSTUB=FILE -DREADELF=PROGRAM -DNM=PROGRAM -P check_stub.cmake
function(run_tool output)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN} failed: ${text}")
  endif()
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

run_tool(undefined ${NM} -u ${STUB})
if(undefined MATCHES "[^ \n]")
  message(FATAL_ERROR "the stub has undefined symbols:\n${undefined}")
endif()

run_tool(relocations ${READELF} -rW ${STUB})
if(NOT relocations MATCHES "There are no relocations")
  message(FATAL_ERROR "the stub has relocations:\n${relocations}")
endif()

run_tool(sections ${READELF} -SW ${STUB})
foreach(section IN ITEMS data bss got got.plt data.rel.ro tdata tbss)
  if(sections MATCHES " \\.${section} +(PROGBITS|NOBITS) +[0-9a-f]+ [0-9a-f]+ 0*([1-9a-f][0-9a-f]*) ")
    message(FATAL_ERROR "the stub has a section .${section}:\n${sections}")
  endif()
endforeach()

run_tool(segments ${READELF} -lW ${STUB})
if(segments MATCHES "LOAD[^\n]* (RWE| WE|RW )")
  message(FATAL_ERROR "the stub has a writable segment:\n${segments}")
endif()

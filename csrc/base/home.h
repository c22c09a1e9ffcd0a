// The process in which an object's threads live. After fork() a child has the object, but not its threads, and its
// locks as they happened to be.
#pragma once

#include <unistd.h>

#include "base/error.h"

namespace halfbyte {

class Home {
 public:
  bool is_here() const { return getpid() == pid_; }

  // Throws unsupported elsewhere: whoever waits there would wait forever.
  void check() const {
    if (is_here()) return;
    throw Error(ErrorKind::unsupported,
                "The model was opened before this process was forked: its threads are not here.",
                "Open it in the new process, or start processes with multiprocessing's \"spawn\".");
  }

 private:
  pid_t pid_ = getpid();
};

}  // namespace halfbyte

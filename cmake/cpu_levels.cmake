# One line per CPU level: the file csrc/cpu/levels/<name>.cpp and the instructions it may use.

"""The halfbyte command: one module a subcommand, with add_arguments() and run(); its docstring is its help, with examples."""

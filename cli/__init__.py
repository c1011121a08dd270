"""The command line: one file for each command, mounted by ``__main__`` on first use."""

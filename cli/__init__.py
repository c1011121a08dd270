"""The command line: one file a command, mounted by ``__main__`` on first use."""

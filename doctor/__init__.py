"""Is everything in order around a config? Checks that change nothing and create nothing."""

"""Checks of a config and of everything that it depends on. They change nothing and create nothing."""

"""Rows, models and training: what a member does with its own data, and the use of a model version."""

"""Rows, models and training: what a member does with its own data, and what a model version is used with."""

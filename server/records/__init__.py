"""What the coordinator keeps: one SQLite file, the audit log in it, and model files beside it."""

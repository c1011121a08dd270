"""The coordinator's side: it collects envelopes, adds them, asks for openings, judges, and records every step.

It holds no key and knows no task: it works on sealed vectors and on model files whose digests members signed.
"""

"""Measure what sealing costs, side by side with other schemes, on one vector and machine."""

"""Whole federations on this machine: simulations in one process, and federations of real processes."""

"""Faults injected on purpose: hostile members and coordinators, so that a federation can test its defences."""

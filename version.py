"""The one version of the package; ``pyproject.toml`` reads it. And what a circle's members must have alike."""

__version__ = "0.1.0"

NUMERICS = 1
"""Raised by a release in which a byte that is trained, summed, opened or judged can differ from the one before.

A recipe names it, and a node signs no recipe that names another one. ``tests/unit/crypto/test_numerics.py`` has the
answers.
"""

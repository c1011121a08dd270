"""The package's version, which ``pyproject.toml`` reads, and the numerics version that a circle's members share."""

__version__ = "0.1.0"

NUMERICS = 2
"""Goes up with a release in which a byte that is trained, summed, opened or judged can differ from the release before.

A recipe names it, and a node signs no recipe that names another number. ``tests/unit/crypto/test_numerics.py`` holds
the expected bytes.
"""

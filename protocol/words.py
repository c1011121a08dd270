"""Phrases about a run that waits: what a member is asked for, and why it has not answered."""

from __future__ import annotations

STEPS = {
    "enrol": "take part",
    "key": "make the circle's key",
    "seat": "take its seat",
    "seal": "send its sealed vector",
    "answer": "answer the list",
    "open": "open the sum",
}
WHY = {
    "absent": "not connected",
    "silent": "connected, and has not answered",
    "broke": "its process failed and is asked again",
    "revoked": "revoked at the server: run moonflower member add, or propose a circle without it",
}

"""How a waiting is said: what a member is asked, and why it is waited for."""

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
    "broke": "its process broke and is asked again",
    "revoked": "shut out at the server's door: moonflower member add, or a circle without it",
}

"""The member's half: data, training, the guard that decides what a member does, and the ledger that it keeps."""

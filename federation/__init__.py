"""Both sides at once: simulations in one process, and federations of real processes on this machine."""

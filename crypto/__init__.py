"""The protocol's mathematics and byte formats. Pure: no network, no flwr, no torch, no clock."""

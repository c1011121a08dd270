"""The protocol's mathematics and bytes. Pure: no network, no flwr, no torch, no clock."""

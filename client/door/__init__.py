"""The node's doors: token, Fleet protocol, warm worker. Only these rooms know private names of flwr."""

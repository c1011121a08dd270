"""Flower's SuperLink behind our door; of the server, only this room knows private names of flwr."""

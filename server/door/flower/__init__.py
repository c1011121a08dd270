"""Flower's SuperLink behind our gateway. Only this package of the server uses private names of flwr."""

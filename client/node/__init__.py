"""The node: token, Fleet protocol, warm worker. Of the client, only this room knows private names of flwr."""

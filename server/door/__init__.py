"""The server's doors: SuperLink, gateway, tokens, issuer. Only this room knows private names of flwr."""

"""The documents and messages that both sides sign and exchange, and Flower's encoding of them."""

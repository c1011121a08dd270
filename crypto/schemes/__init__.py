"""How a sum is sealed in protocol version 1: one key an epoch, that every member holds. No server imports it."""

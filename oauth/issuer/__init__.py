"""The embedded issuer, for trials on one machine; the only room that knows authlib."""

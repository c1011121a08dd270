"""The embedded issuer, for trials on one machine; the only package that knows authlib."""

"""Access tokens, proofs and keys (OAuth 2.0, RFC 9068, RFC 9449), and the embedded issuer."""

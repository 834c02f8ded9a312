"""TLS: server contexts, what a certificate says of itself, and certificates for development."""

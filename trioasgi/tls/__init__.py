"""TLS: server contexts, descriptions of certificates, and development certificates."""

"""TLS: tests of trioasgi/tls/."""

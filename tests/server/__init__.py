"""One worker's server: tests of trioasgi/server/."""

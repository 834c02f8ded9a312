"""HTTP/1: reading without I/O, and whole connections over memory streams, on both codecs."""

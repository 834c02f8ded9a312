"""HTTP/1.1 and 1.0 (RFC 9112): sans-IO codecs, the rules above them, and the connection loop."""

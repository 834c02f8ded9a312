"""WebSocket (RFC 6455): the handshake's rules, sans-IO codecs, and a session on any byte channel."""

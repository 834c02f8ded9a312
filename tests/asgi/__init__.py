"""The application side: scopes, calls and lifespan."""

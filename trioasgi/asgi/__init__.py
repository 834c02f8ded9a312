"""The application side: scopes, the HTTP call and lifespan of ASGI 3, written once for every version of
HTTP.
"""

"""WSGI applications: tests of trioasgi/wsgi/."""

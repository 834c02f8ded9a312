"""The demo: tests of trioasgi/demo/."""

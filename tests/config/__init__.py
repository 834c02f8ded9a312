"""Tests of the options: trioasgi/config/."""

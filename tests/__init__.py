"""The tests of trioasgi; they mirror its modules."""

"""What all versions of HTTP share."""

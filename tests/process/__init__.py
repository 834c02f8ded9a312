"""How a process runs: tests of trioasgi/process/."""

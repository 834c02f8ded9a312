"""How a process runs the server: alone or under a supervisor, with its signals and its application."""

"""The parent's side of `--reload` and `--workers`: it starts workers, and keeps them serving.

It never imports the application, so what is broken there cannot break it. A worker imports this package too,
for the messages that both speak: so nothing is imported here before it is needed.
"""

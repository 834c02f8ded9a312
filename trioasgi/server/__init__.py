"""One worker's server: the nursery tree, its connections, its drain."""

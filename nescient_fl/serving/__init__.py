"""A finished model in use: read from its file, and served under encryption by three roles."""

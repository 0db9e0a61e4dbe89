"""Where data lives: one fsspec filesystem per location."""

"""Places to fetch models from, one module each."""

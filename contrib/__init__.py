"""Tools beside the product: run by hand, never imported by it."""

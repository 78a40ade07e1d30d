"""Blend: two adapters, and accuracy on the line between them."""

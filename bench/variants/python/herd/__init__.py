"""Shared by the Python variants: everything that touches neither a socket nor an event loop."""

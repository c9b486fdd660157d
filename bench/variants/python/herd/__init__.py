"""What the Python variants share: everything that touches neither a socket nor an event loop."""

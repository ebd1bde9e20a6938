"""hetlib: moving what a network has learned into a network of another shape."""

__version__ = "0.1.0"

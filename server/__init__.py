"""The Tocsin server: queue, dispatch, live events and their page."""

__version__ = "1.0.0"

"""The Tocsin server: queue, dispatch, live events and their page."""

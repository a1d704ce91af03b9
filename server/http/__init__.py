"""What all handlers share: routes, decoding, keys and sessions, limits, problems."""

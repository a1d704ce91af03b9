"""What follows the log, or the clock, beside the workers."""

"""Try: a picture of your own, classified by every adapter of a task."""

"""What a visitor has set and what has been measured for it."""

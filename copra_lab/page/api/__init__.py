"""The page for programs: its endpoints and what they answer."""

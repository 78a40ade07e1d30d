"""The tasks that come with the package: drawings of emoji and icons, and what makes them harder to recognise."""

"""What several packages need: files, random numbers, statistics, devices, downloads."""

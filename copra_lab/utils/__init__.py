"""Small tools that several packages share: files, downloads, devices, statistics and seeds."""

"""What stands before the page: the server, its queue, its limits."""

"""What a result says: numbers into findings into a table and a page."""

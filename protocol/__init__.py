"""What both sides sign and say: one page a document, and the one room that knows Flower's encoding."""

"""Messages between sites and the coordinator: orders, replies, descriptions, and how they are read."""

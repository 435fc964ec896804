"""What sites and the coordinator say to each other: orders, replies, descriptions, and how they are read."""

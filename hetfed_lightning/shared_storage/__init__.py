"""Storage that participants have in common: weights lent until somebody writes to them, and what is alike kept once."""

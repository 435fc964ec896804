"""Methods: one file says what participants send, how it is combined and what becomes of it at home."""

"""Published methods, one file each, every one checked against a loop by hand that shares no code with it."""

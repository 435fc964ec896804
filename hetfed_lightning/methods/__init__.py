"""Federated methods: messages of participants, their combination, and the use of the result, one file each."""

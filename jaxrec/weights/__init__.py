"""Weights from elsewhere: readers that execute nothing, and the names that other libraries give to arrays."""

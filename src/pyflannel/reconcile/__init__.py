"""Reconcile: desired − actual, and the loop that keeps the difference empty."""

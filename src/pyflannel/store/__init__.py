"""Stores: who owns which subnet."""

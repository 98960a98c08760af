"""This host: its underlay interface and addresses, its identity."""

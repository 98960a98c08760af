"""pyflannel: leases in, network out."""

__version__ = "0.1.0"

"""The packet engine of pyflannel's udp backend: see `__init__.pyi` for what it offers."""

from pyflannel_engine._native import KernelEngine, UserEngine

__all__ = ["KernelEngine", "UserEngine"]

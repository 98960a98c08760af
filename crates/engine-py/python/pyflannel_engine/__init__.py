"""The packet engine of pyflannel's udp backend: see `__init__.pyi` for what it offers."""

from pyflannel_engine._native import UserEngine

__all__ = ["UserEngine"]


class KernelEngine:
    @staticmethod
    def missing():
        return "not in this build"

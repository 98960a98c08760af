"""Container runtimes on the lab's nodes."""

"""Tables: where rows live. The only code that changes the system."""

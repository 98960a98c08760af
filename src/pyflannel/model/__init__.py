"""Values: frozen, and importing nothing else of ours."""

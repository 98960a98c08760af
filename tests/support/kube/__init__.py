"""A real Kubernetes on the test machine: its programs, its certificates, its control plane."""

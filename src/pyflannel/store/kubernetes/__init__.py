"""Kubernetes as the store: the API server says which node owns which subnet (its podCIDRs), annotations the rest."""

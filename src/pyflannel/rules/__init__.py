"""Traffic rules: from the network config to the firewall chains wanted. Pure."""

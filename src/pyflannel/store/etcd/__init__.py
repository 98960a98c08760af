"""etcd v3 as the store."""

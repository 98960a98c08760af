"""The commands: flanneld, flannelctl, mk-docker-opts."""

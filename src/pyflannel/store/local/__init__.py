"""The embedded store: a file that the daemons of one machine share."""

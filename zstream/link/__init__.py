"""The client's link to a daemon: one background thread, its sockets, and what travels on each."""

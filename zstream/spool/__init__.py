"""The spool: inserts in files of SQLite until the daemon has stored them."""

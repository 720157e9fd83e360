"""The zstream daemon. Its public face is the command ``zstreamd``."""

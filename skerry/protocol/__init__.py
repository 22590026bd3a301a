"""Every message and its bytes; performs no I/O."""

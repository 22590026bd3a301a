"""Labs of real processes on this machine: the services as they ship, on loopback, behind shaped links."""

"""The lab in virtual time: the production services on a simulated network, a second of it in no time."""

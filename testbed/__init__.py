"""Labs: whole federations on one machine."""

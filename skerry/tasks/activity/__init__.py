"""The built-in task: what somebody is doing, from the accelerometer of the phone in their pocket."""

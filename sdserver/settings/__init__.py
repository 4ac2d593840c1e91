"""What the operator decides at start: flags, environment and file, folded into one frozen `Settings`."""

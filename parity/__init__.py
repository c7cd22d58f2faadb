"""What the twins have agreed on (``parity.contract``) and the check that they keep it (everything else here)."""

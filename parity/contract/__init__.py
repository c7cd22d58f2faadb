"""What jaxfused and torchfused have agreed on. Standard library only; all that the twins may import from parity."""

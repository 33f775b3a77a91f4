"""Faults done to the real processes, and the proof that nothing receipted was lost by them."""

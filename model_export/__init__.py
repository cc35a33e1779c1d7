"""The model's way: train -> load -> graph -> parity -> quantize -> report -> publish."""

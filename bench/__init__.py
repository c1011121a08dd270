"""What sealing costs, side by side with other ways, on one vector and machine."""

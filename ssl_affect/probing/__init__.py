"""What a frozen network knows: features of any backbone, simple readers of them, and signs of collapse."""

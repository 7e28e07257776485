"""What every training run needs, whatever it trains: one clock, one folder, whole checkpoints, exact resume."""

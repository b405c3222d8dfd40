"""Training: datasets, models, backtest, gate, publishing and the command line. The top floor."""

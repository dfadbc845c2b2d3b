"""The model node: its process, the model it serves, metrics, and the backend behind them. Protected."""

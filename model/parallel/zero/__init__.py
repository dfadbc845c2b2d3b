"""DeepSpeed as the engine of the data parallel axis: ZeRO 0 to 3."""

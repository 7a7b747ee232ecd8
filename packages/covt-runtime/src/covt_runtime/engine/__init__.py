"""The ZeRO-3 engine: configuration, optimizer, schedule and weights. The only folder that imports DeepSpeed."""

"""The ZeRO-3 engine, its settings, memory estimate and profiler; the only folder that imports DeepSpeed.

May not import checkpoints.
"""

"""The UNet as machine code: made once by a process beside the engine, kept on disk, used instead of eager
PyTorch where a call allows it.
"""

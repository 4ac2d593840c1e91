"""Files that change a loaded checkpoint for some calls: the LoRA family and hypernetworks.

`adapted.Adapted` is the door: it switches a checkpoint's networks to a set of adapters. `names` finds
layers by the names that files use, `kinds` holds each kind's formula, `merge` computes changed tensors.
"""

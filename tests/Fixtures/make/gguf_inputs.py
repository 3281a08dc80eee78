"""The weights that gguf_files.py quantised for blocks.safetensors (its first seven types), made again from its seed.
Usage: gguf_inputs.py OUT.safetensors (needs numpy only)"""
import json, struct, sys
import numpy as np

rng = np.random.default_rng(21)
inputs = {}
for name, block in {"F16": 1, "BF16": 1, "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32}.items():
    inputs[name] = rng.standard_normal((4, max(block, 32) * 2)).astype(np.float32)
header, at = {}, 0
for name, x in inputs.items():
    header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
    at += x.nbytes
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in inputs.values()))

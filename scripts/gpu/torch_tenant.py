#!/usr/bin/env python3
"""A PyTorch tenant: one training run, one decode loop by CUDA graph, then memory until there is none.

Prints one JSON object a line. The hashes are over the bits of the results, so two runs agree only if they are equal bit for bit.
"""
import hashlib
import json
import os
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS
import torch
from torch import nn

MIB = 1 << 20


def say(**facts):
    print(json.dumps(facts), flush=True)


def digest(tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def model(layers=6, width=512, heads=8):
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, layers), nn.Linear(width, width)).cuda()


def train(steps=20):
    torch.manual_seed(1)
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    data = torch.randn(32, 128, 512, device="cuda")
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = (net(data) - data).square().mean()
        loss.backward()
        optimizer.step()
    say(what="train", steps=steps, loss=loss.item(), sha256=digest(net.parameters()))


def decode(tokens=200):
    torch.manual_seed(2)
    net = model().eval().bfloat16()
    state = torch.randn(1, 1, 512, device="cuda", dtype=torch.bfloat16)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            net(state)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        state.copy_(net(state))
    history = []
    for _ in range(tokens):
        graph.replay()
        history.append(state.clone())
    say(what="decode by graph", tokens=tokens, sha256=digest(history))


def fill(chunk=64 * MIB):
    """Takes memory until it is refused, gives half back, and takes it again."""
    held = []
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    try:
        while True:
            held.append(torch.empty(chunk, dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError as error:
        message = str(error).split("\n")[0]
    full = len(held)
    free, total = torch.cuda.mem_get_info()
    say(what="filled", granted_mib=(torch.cuda.memory_reserved() - before) // MIB, reserved_mib=torch.cuda.memory_reserved() // MIB,
        free_mib=free // MIB, total_mib=total // MIB, error=message)
    time.sleep(0.3)  # for the sampler beside us
    del held[full // 2:]
    torch.cuda.empty_cache()
    again = [torch.empty(chunk, dtype=torch.uint8, device="cuda") for _ in range(full - full // 2)]
    x = torch.randn(256, 256, device="cuda")
    say(what="after the refusal", taken_again=len(again), still_computes=bool(torch.isfinite(x @ x).all().item()))


def main():
    torch.use_deterministic_algorithms(True, warn_only=True)
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(0)
    say(what="device", name=properties.name, total_mib=total // MIB, free_mib=free // MIB,
        properties_total_mib=properties.total_memory // MIB, torch=torch.__version__)
    train()
    decode()
    if "--fill" in sys.argv:
        fill()


if __name__ == "__main__":
    main()

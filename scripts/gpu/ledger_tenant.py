#!/usr/bin/env python3
"""A JAX or CuPy tenant: some work, memory until there is none, and work again. Prints one JSON object a line.

    ledger_tenant.py jax | cupy | cupy-async
"""
import json
import sys
import time

MIB = 1 << 20
CHUNK_MIB = 64


def say(**facts):
    print(json.dumps(facts), flush=True)


def fill(make, is_refusal):
    """Takes chunks until one is refused, gives half back, and takes it again."""
    held = []
    while True:
        try:
            held.append(make())
        except Exception as error:  # noqa: BLE001 - each library has its own
            if not is_refusal(error):
                raise
            message = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            break
    full = len(held)
    say(what="filled", granted_mib=full * CHUNK_MIB, error=message)
    time.sleep(0.1)  # for the sampler beside us
    del held[full // 2:]
    held += [make() for _ in range(max(0, full - full // 2 - 1))]
    say(what="after the refusal", taken_again=len(held))
    del held


def jax_tenant():
    import jax
    import jax.numpy as jnp
    multiply = jax.jit(lambda a, b: a @ b)
    a = jax.random.normal(jax.random.PRNGKey(1), (2048, 2048), dtype=jnp.float32)
    say(what="worked", mean=float(multiply(a, a).mean()), version=jax.__version__)
    chunk = lambda: jax.device_put(jnp.zeros(CHUNK_MIB * MIB // 4, dtype=jnp.float32)).block_until_ready()  # noqa: E731
    fill(chunk, lambda error: "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower())
    say(what="goes on", mean=float(multiply(a, a).mean()))


def cupy_tenant(is_async):
    import cupy
    if is_async:
        cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    a = cupy.random.default_rng(1).standard_normal((2048, 2048), dtype=cupy.float32)
    say(what="worked", mean=float((a @ a).mean()), version=cupy.__version__)

    def chunk():
        made = cupy.zeros(CHUNK_MIB * MIB, dtype=cupy.uint8)
        cupy.cuda.Device().synchronize()
        return made

    fill(chunk, lambda error: isinstance(error, cupy.cuda.memory.OutOfMemoryError) or "MemoryAllocation" in str(error))
    say(what="goes on", mean=float((a @ a).mean()))


def main():
    try:
        if sys.argv[1:] == ["jax"]:
            jax_tenant()
        elif sys.argv[1:] in (["cupy"], ["cupy-async"]):
            cupy_tenant(sys.argv[1] == "cupy-async")
        else:
            sys.exit(__doc__)
    except ImportError as error:
        say(what="skipped", why=str(error))


if __name__ == "__main__":
    main()

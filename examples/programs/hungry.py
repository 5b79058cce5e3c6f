"""Takes memory until there is no more: a quarter of a gigabyte, or as far as --memory goes."""

held = []
for step in range(1, 5):
    held.append(bytearray(b"x" * (64 << 20)))
    print(f"{step * 64} MiB", flush=True)

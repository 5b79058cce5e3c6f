"""Dies of a signal: reads where no memory is."""

import ctypes

print("here it comes", flush=True)
ctypes.string_at(8)

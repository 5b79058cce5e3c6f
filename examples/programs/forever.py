"""Never ends by itself, and does not listen to those who ask."""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("you will have to make me", flush=True)
while True:
    pass

"""Counts primes and tells how far it is, as programs do that take their time."""

LIMIT = 400_000

sieve = bytearray([1]) * LIMIT
sieve[:2] = b"\0\0"
for number in range(2, int(LIMIT**0.5) + 1):
    if sieve[number]:
        sieve[number * number :: number] = bytes(len(range(number * number, LIMIT, number)))

for step in range(1, 5):
    bound = LIMIT * step // 4
    digits = sum(sum(map(int, str(number))) for number in range(bound) if sieve[number])
    print(f"{sum(sieve[:bound])} primes below {bound}, their digits add up to {digits}")

"""`python -m creche.cli`, for where the script is not on PATH."""

from .main import main

main()

"""The program: `creche`, and `python -m creche.cli` where the script is not on PATH."""

import gc

gc.disable()  # imports make no garbage worth looking for, and looking takes a tenth of their time; main() turns it on again

from .main import main  # noqa: E402

if __name__ == "__main__":
    main()

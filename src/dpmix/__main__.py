"""`python -m dpmix`, which `torchrun -m dpmix` needs too."""

from dpmix.cli import main

if __name__ == "__main__":
    main()

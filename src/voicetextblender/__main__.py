"""`python -m voicetextblender`, which is how `torchrun -m` starts it."""

from voicetextblender.cli.main import main

if __name__ == "__main__":
    main()

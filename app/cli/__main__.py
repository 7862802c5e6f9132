"""`python -m app.cli`: the `halflayer` command."""

from app.cli.main import main

if __name__ == "__main__":
    main()

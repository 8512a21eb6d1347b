"""``python -m example_project``."""

from example_project.demo.cli import main

if __name__ == "__main__":
    main()

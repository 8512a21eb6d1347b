"""``python -m example_project.shop``: the shop on this machine, with a worker, beat and the web page, until Ctrl-C."""

from example_project.demo.open import main

if __name__ == "__main__":
    main()

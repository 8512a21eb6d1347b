"""The demo: runs the shop with its workers, kills one of them, and checks what the locks promise."""

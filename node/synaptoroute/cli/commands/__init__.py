"""One file a command, or a family of small ones; ``cli.app`` names them."""

"""What `fm9g VERB` and the scripts in tools/ run: each verb a module, whose `main` reads the command line."""

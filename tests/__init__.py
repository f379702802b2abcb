"""The tests, a package of this name whatever other packages of it are installed: scripts import from it, too."""

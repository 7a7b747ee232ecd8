"""Looking at prepared sets and checking them. The top of the package: nothing else in it may import this folder."""

import pygit2

print("pygit2", pygit2.__version__)

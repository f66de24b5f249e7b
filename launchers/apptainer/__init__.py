"""How is a program put into a container, and where does the container's image come from? Images are files of a store,
named by what they are built from. Which program it is, and with what, is planning.py's."""

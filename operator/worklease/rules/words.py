"""Words from outside, made safe to show: what a server, a pod or a person wrote.

Owns which characters are shown. Whoever reads such words passes them through here, once; nobody has to do it later. A
value that is sent back, such as a heartbeat's, is not made of words and stays as it is.
"""


def one_line(words: str) -> str:
    """Return the words in one line, without escape sequences and whatever else is not printable.

    An escape sequence could clear a reader's screen, a newline could forge a line of the log, and a character that
    changes the direction of writing could hide what a message says.
    """
    if words.isprintable():
        return words
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())

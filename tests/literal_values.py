"""Values of variables that must arrive as they are, byte for byte (B4)."""

LITERAL = {
    "COMMAS": "a,b,,c",
    "QUOTES": "'single' \"double\" “curly”",
    "DOLLAR": "$HOME ${PATH} $(id) $$",
    "BACKTICKS": "`id`",
    "LINES": "one\ntwo\r\nthree\n",
    "BACKSLASH": "\\ \\\\ \\n \\",
    "PERCENT": "100%20%s%%",
    "UNICODE": "ünï 😀 \u2028 \u200b",
    "SPACES": "  both ends\t ",
    "EMPTY": "",
    "HASH": "#a #b",
    "EQUALS": "=a=b",
    "BANG": "!x & ; | < > * ? [ ] { } ~ ^",
}
"""What B4 names, and what else shells and file formats stumble over."""

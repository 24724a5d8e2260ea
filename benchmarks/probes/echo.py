"""The other end of a round trip: ``echo.py pipe`` or ``echo.py socket FD``."""

import os
import socket
import sys

ANSWER = bytes(64)


def echo_pipe():
    while byte := os.read(0, 1):
        os.write(1, byte)


def echo_socket(fd):
    with socket.socket(fileno=fd) as connection:
        while connection.recv(1 << 16):
            connection.send(ANSWER)


if sys.argv[1] == "pipe":
    echo_pipe()
else:
    echo_socket(int(sys.argv[2]))

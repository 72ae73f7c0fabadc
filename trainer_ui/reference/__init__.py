"""The shipped compact base as an ordinary, full-size SD1.5 checkpoint, and adapters with it.

A narrow network with SD1.5's blocks becomes one of SD1.5's size that computes the same function:
every channel is copied k times, copies side by side, and what reads channels reads the first copy.
The line of dependency: skeleton -> widening -> compact -> checkpoint, adapter.
"""

"""Speed and memory, measured against a floor: the same work done with bare nats-py, side by side in the same minutes.

`python -m bench` runs all of it. Absolute numbers depend on the machine; what is compared are the ratios.
"""

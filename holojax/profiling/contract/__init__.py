"""What each function that talks to other devices may send: formulas, stated apart from the code that they judge.

One module a room. Each function takes the shape of one device's block, `[b r h w ...]` with `r` regions of the grid,
and returns the bytes of one call by kind of collective, as `traffic.totals` counts them: the results on one device.
With `backward` it returns what the backward pass adds; where there is no such argument that is as much again, since
what is sent is used linearly.
"""

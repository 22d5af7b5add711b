"""Independent float64 oracles: every score again, straight from its paper, naive and readable.

Nothing here may import `demur`: an oracle that shares code with what it checks proves nothing. Every function fits and
scores by itself; the only fitted numbers it accepts from outside are those of a random or iterative fit (the rows a
bank sampled, the parameters an EM ended with). Higher is less trustworthy.
"""

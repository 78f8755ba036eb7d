"""Where does the error come from? Error budget, parts of the gap, bias and variance, learning curve."""

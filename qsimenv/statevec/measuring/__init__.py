"""What is read from a state: outcomes, expectation values, and the random numbers that the draws need."""

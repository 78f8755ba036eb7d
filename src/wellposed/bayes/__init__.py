"""What do the data not say about the weights? Priors, posteriors, and strengths chosen by the marginal likelihood."""

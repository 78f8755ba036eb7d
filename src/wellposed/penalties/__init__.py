"""What a weight is charged: values, proximal operators and violations of stationarity."""

"""What backbones and heads have in common; it knows neither."""

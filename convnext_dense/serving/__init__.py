"""A loaded model behind HTTP: a REST interface with an OpenAPI description."""

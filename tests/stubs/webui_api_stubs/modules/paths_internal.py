"""Where the WebUI keeps its files."""

models_path = "models"
data_path = "."

